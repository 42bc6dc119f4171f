"""What one may well ask for and cannot have here, and why."""

from __future__ import annotations

from evolve.core.registry import BUILTIN

OWN_NETWORK = "it comes with a network of its own, and the ancestor must be the scenario's"
NO_TRAINING = "it changes how images are classified, not what the ancestor's layers learn: they would be naive's"
STRATEGIES: dict[str, str] = {
    "pnn": OWN_NETWORK + " (a column of layers a task)",
    "packnet": "Avalanche's does not support batch normalisation",
    "ar1": OWN_NETWORK + " (a pretrained MobileNet)",
    "l2p": OWN_NETWORK + " (a pretrained ViT with a pool of prompts)",
    "expert-gate": OWN_NETWORK + " (an AlexNet a task)",
    "slda": "it fits a classifier on a network that is already trained; the ancestor would learn nothing",
    "ncm": NO_TRAINING,
    "fecam": NO_TRAINING,
    "icarl": "it learns a class only in the first task that shows it, and classes recur on this stream",
    "bic": "Avalanche's cannot set validation images aside here, and it corrects the newest classes' bias against the older ones', and on this stream a class may be both",
    "mer": "it steps on one image at a time, for which batch normalisation has no statistics",
    "rar": "Avalanche's cuts the network open by torch.fx, which cannot trace it, and clips images to 0..1, which normalised ones leave",
    "gss-greedy": "Avalanche's adds single images' gradients to every update and replays unfilled places of its memory as blank images of class 0",
    "online-naive": 'Avalanche gave it up for naive: set ancestor.strategy to "naive" and ancestor.epochs to 1',
    "der++": 'set ancestor.strategy to "der": with ancestor.strategy_args.beta above 0, as by default, it is DER++',
    "lamaml-higher": 'it needs the package higher: set ancestor.strategy to "la-maml"',
    "object-detection": "it detects objects, and the stream has classes",
    "autoencoder": "it trains an autoencoder, not a classifier",
    "vae": "it trains a generator, not a classifier; generative-replay uses it",
    "il2m": "Avalanche 0.6 has none",
}
REFUSED = {"strategies": STRATEGIES}  # by kind, as in the registry


def refusal(kind: str, name: str) -> str | None:
    """One line on why ``name`` cannot run here, and what can; None for all other names."""
    if name not in REFUSED.get(kind, {}):
        return None
    return f'ancestor.strategy = "{name}" cannot run here: {REFUSED[kind][name]}; these can: {", ".join(BUILTIN[kind])}'
