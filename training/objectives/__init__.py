"""What training minimises: a weighted sum of objectives, one a module.

The contrastive ones (InfoNCE, sigmoid, distillation) compare every picture of a batch with every text of it; each takes
unit vectors of the whole batch and sums over the rows that one process answers for, divided by the size of the whole
batch, so that the sum over processes is the loss of the whole. `intra_modal` compares the texts of a picture, and goes
along with them. The others (masked language modelling, captioning) look at one pair at a time, and give the part of its
tokens in the mean over those of the whole batch.
"""

from __future__ import annotations

CONTRASTIVE = ("info_nce", "sigmoid", "distillation", "intra_modal")
PER_PAIR = ("masked_language", "captioning")
OBJECTIVES = CONTRASTIVE + PER_PAIR
