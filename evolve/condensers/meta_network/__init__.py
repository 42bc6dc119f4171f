"""The paper's condenser: a meta-network weighs every layer (Eq. 16)."""
