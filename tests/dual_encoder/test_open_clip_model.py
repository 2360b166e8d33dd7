"""What open_clip leaves undone is done here."""

import torch

from dual_encoder.open_clip_model import draw_projection


class Poisoned(torch.nn.Module):
    """The part of CoCa whose projection open_clip allocates and does not fill."""

    def __init__(self) -> None:
        super().__init__()
        self.text_decoder = torch.nn.Module()
        self.text_decoder.text_projection = torch.nn.Parameter(torch.full((64, 32), 1e36))


def test_the_projection_of_a_decoder_is_drawn() -> None:
    model = Poisoned()
    draw_projection(model)
    assert 0.1 < float(model.text_decoder.text_projection.std()) < 0.15  # type: ignore[arg-type,union-attr]
    draw_projection(torch.nn.Linear(2, 2))  # other models have none
