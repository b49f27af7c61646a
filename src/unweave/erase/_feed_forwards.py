"""What erasers that zero feed-forward weights say of blocks without any of the picture's own."""

from __future__ import annotations

from ..io.told import tell
from ..models.text_to_image import TextToImage, shared_attentions


def say_passed_over(model: TextToImage, who: str) -> None:
    """Say how many blocks have no feed-forward of the picture's own: Flux's single ones, ending in one layer."""
    single = len(shared_attentions(model.denoiser)) if model.layout == "packed" else 0
    if single:
        tell(
            f"{who}: looked at are the feed-forwards of {len(model.linears('ff_out'))} blocks; {single} single blocks, "
            "where feed-forward and attention leave by one layer for text and picture, stay as they are."
        )
