"""torchvision's MNASNet with its present stem, whatever a state dict says of itself."""

from torchvision.models import MNASNet


class PresentMNASNet(MNASNet):
    """Loads state dicts without the version that torchvision's own class asks for, which only pickles carry.

    Files of version 1, which have another stem, differ in shapes.
    """

    def _load_from_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, *args) -> None:
        super()._load_from_state_dict(state_dict, prefix, {**local_metadata, 'version': self._version}, *args)
