"""Pictures of whole batches, as the paper's figures have them; a batch file names one."""
