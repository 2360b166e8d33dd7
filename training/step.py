"""One step of training: a batch of pairs -> gradients, the same on one process or many, whole or in micro-batches.

The contrastive loss needs the vectors of the whole batch, the towers only their own part of it. So the towers embed
what this process has, the vectors are gathered, the loss gives a gradient for each vector, and the towers take it from
there. With micro-batches the first embedding keeps no graph and each part is embedded again when its gradient is known
(Gao et al., 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup": GradCache).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dual_encoder.preprocess import Preprocess
from dual_encoder.text_tower import encode_text, is_cuttable
from training.batch import Batch
from training.config import TrainConfig
from training.distributed import Processes
from training.objectives import CONTRASTIVE, PER_PAIR
from training.objectives.captioning import captioning
from training.objectives.distillation import distillation
from training.objectives.info_nce import info_nce
from training.objectives.intra_modal import intra_modal
from training.objectives.masked_language import mask_token, mask_tokens, masked_language, new_head, token_states
from training.objectives.sigmoid import sigmoid

if TYPE_CHECKING:
    import torch

_TEXT_CHUNKS = 4  # long and short texts are encoded apart, so that short ones cost what they should


@dataclass
class Parts:
    """What the towers give for some pictures: unit vectors, and their part in the losses that look at single pairs."""

    images: torch.Tensor
    texts: torch.Tensor
    losses: dict[str, torch.Tensor]


@dataclass
class Guesses:
    """What is to be guessed of a process' captions: `tokens` int64 (n · c, length), `hidden` bool alike, where masked.

    `total` tokens are guessed in the whole batch, by all processes together.
    """

    tokens: torch.Tensor
    hidden: torch.Tensor
    total: int

    def __getitem__(self, rows: slice) -> Guesses:
        return Guesses(self.tokens[rows], self.hidden[rows], self.total)


class Step:
    """Turns batches into gradients on the model's parameters."""

    def __init__(
        self,
        config: TrainConfig,
        model: Any,
        preprocess: Preprocess,
        tokenizer: Any,
        processes: Processes,
        device: torch.device,
        teacher: Any = None,
    ) -> None:
        import torch

        self.config, self.model, self.processes, self.device = config, model, processes, device
        # Autocast is 10 times slower than fp32 on a CPU that does not multiply in bf16.
        self._half = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
        self.teacher = teacher
        self.head: Any = None
        self._cuttable = is_cuttable(model)
        self._mean = torch.tensor(preprocess.mean, device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(preprocess.std, device=device).view(1, 3, 1, 1) * 255
        if "masked_language" in config.objectives:
            if not self._cuttable:
                raise ValueError("masked_language works on CLIP's own text towers; this model has another")
            self._mask_id, self._special = mask_token(tokenizer)
            tower = getattr(model, "text", model)
            width, vocabulary = tower.token_embedding.embedding_dim, tower.token_embedding.num_embeddings
            with torch.no_grad():
                size = preprocess.size
                probe = self._image_tokens(torch.zeros(1, 3, *size, device=device))[1].shape[-1]
            self.head = new_head(width, probe, vocabulary, max(1, width // 64)).to(device)

    def __call__(self, batch: Batch, number: int) -> dict[str, float]:
        """Add this step's gradients to the parameters; returns the value of each objective over the whole batch."""
        import torch

        size = self.config.micro_batch or len(batch)
        chunks = [slice(start, start + size) for start in range(0, len(batch), size)]
        whole = len(chunks) == 1
        guesses = self._guesses(batch, number)
        parts: list[Parts] = []
        for i, rows in enumerate(chunks):
            with torch.set_grad_enabled(whole), _still_statistics(self.model, not whole):
                parts.append(self._embed(batch, rows, number, i, guesses if whole else None))
        images = torch.cat([part.images.detach() for part in parts])
        texts = torch.cat([part.texts.detach() for part in parts])
        values, image_gradient, text_gradient = self._contrast(batch, images, texts)

        weights = self.config.objectives
        per_text = texts.shape[0] // len(batch)
        for i, rows in enumerate(chunks):
            part = parts[i] if whole else self._embed(batch, rows, number, i, guesses)
            roots, gradients = [], []
            for name, loss in part.losses.items():
                values[name] = values.get(name, 0.0) + loss.item()
                roots.append(loss)
                gradients.append(torch.full_like(loss, weights[name]))
            if image_gradient is not None and text_gradient is not None:
                text_rows = slice(rows.start * per_text, rows.stop * per_text)
                for root, gradient in ((part.images, image_gradient[rows]), (part.texts, text_gradient[text_rows])):
                    if root.requires_grad:
                        roots.append(root)
                        gradients.append(gradient)
            torch.autograd.backward(roots, gradients)
        self.processes.add_up(p.grad for p in self.parameters())
        if self.processes.size > 1:
            names = sorted(values)
            total = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.device).float()
            self.processes.add_up([total])
            values = dict(zip(names, total.tolist(), strict=True))
        return values

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """All that is trained, the head of masked language modelling included."""
        for module in (self.model, self.head):
            if module is not None:
                yield from (p for p in module.parameters() if p.requires_grad)

    # --- the towers ---------------------------------------------------------------------------------------------------

    def _embed(self, batch: Batch, rows: slice, number: int, chunk: int, guesses: Guesses | None) -> Parts:
        """Embed some pictures and their texts, with the same random choices whenever it is asked for the same part.

        Without `guesses` there are no losses.
        """
        import torch

        config = self.config
        torch.manual_seed((config.seed * 1_000_003 + number) * 4_099 + self.processes.rank * 65_537 + chunk)
        pixels = batch.pixels[rows].to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        if self.device.type == "cpu" or self._half:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        per_text = len(batch.tokens) // len(batch)
        first = rows.start * per_text
        tokens = batch.tokens[first : first + len(pixels) * per_text].to(self.device, non_blocking=True)
        if guesses:
            guesses = guesses[rows.start * config.captions_per_image : rows.stop * config.captions_per_image]
        found: dict[str, torch.Tensor] = {}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            normal = (pixels - self._mean) / self._std
            if "captioning" in config.objectives:
                images, texts, found = self._caption(normal, tokens, guesses)
            elif "masked_language" in config.objectives and guesses:
                images, image_tokens = self._image_tokens(normal)
                texts = self._encode_texts(tokens)
                found = {"masked_language": self._guess(image_tokens, guesses)}
            else:
                images, texts = self.model.encode_image(normal), self._encode_texts(tokens)
        unit = torch.nn.functional.normalize
        return Parts(unit(images.float(), dim=-1), unit(texts.float(), dim=-1), found)

    def _encode_texts(self, tokens: torch.Tensor) -> torch.Tensor:
        import torch

        if not self._cuttable:
            return self.model.encode_text(tokens)  # type: ignore[no-any-return]
        lengths = _lengths(tokens)
        order = lengths.argsort()
        parts = [encode_text(self.model, tokens[rows, : int(lengths[rows[-1]])]) for rows in order.chunk(_TEXT_CHUNKS)]
        return torch.cat(parts)[order.argsort()]

    def _image_tokens(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (n, dim) and the tower's last map as tokens (n, patches, width)."""
        found = self.model.visual.forward_intermediates(pixels, indices=1)
        return found["image_features"], found["image_intermediates"][-1].flatten(2).transpose(1, 2)

    def _guesses(self, batch: Batch, number: int) -> Guesses | None:
        """What is guessed in this step, chosen for the whole batch at once, however that is cut."""
        import torch

        config = self.config
        if not config.objectives.keys() & PER_PAIR:
            return None
        own = self._captions(batch.tokens.to(self.device, non_blocking=True), len(batch))
        every = self.processes.gather(own)
        if "captioning" in config.objectives:
            hidden = every != self.model.pad_id
            hidden[:, 0] = False
        else:
            generator = torch.Generator().manual_seed((config.seed * 1_000_003 + number) * 4_099)
            hidden = mask_tokens(every, self._mask_id, self._special, generator)[1]
        mine = slice(self.processes.rank * len(own), (self.processes.rank + 1) * len(own))
        return Guesses(own, hidden[mine], max(1, int(hidden.sum())))

    def _captions(self, texts: torch.Tensor, pictures: int) -> torch.Tensor:
        """Of (n · (c + m), …), what is of texts, those of the n · c captions."""
        return texts.reshape(pictures, -1, *texts.shape[1:])[:, : self.config.captions_per_image].flatten(0, 1)

    def _guess(self, image_tokens: torch.Tensor, guesses: Guesses) -> torch.Tensor:
        length = int(_lengths(guesses.tokens).max())
        own, hidden = guesses.tokens[:, :length], guesses.hidden[:, :length]
        states = token_states(self.model, own.masked_fill(hidden, self._mask_id))
        images = image_tokens.repeat_interleave(self.config.captions_per_image, 0)
        return masked_language(self.head, states, images, own, hidden, guesses.total)

    def _caption(
        self, pixels: torch.Tensor, tokens: torch.Tensor, guesses: Guesses | None
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """One pass through open_clip's CoCa gives the vectors and the guesses of the next tokens."""
        images, image_tokens = self.model._encode_image(pixels, normalize=False)
        texts, states = self.model._encode_text(tokens, normalize=False)
        if guesses is None:
            return images, texts, {}
        image_tokens = image_tokens.repeat_interleave(self.config.captions_per_image, 0)
        logits = self.model.text_decoder(image_tokens, self._captions(states, len(pixels))[:, :-1])
        return (
            images,
            texts,
            {"captioning": captioning(logits, guesses.tokens[:, 1:], guesses.total, self.model.pad_id)},
        )

    # --- the whole batch ----------------------------------------------------------------------------------------------

    def _contrast(
        self, batch: Batch, images: torch.Tensor, texts: torch.Tensor
    ) -> tuple[dict[str, float], torch.Tensor | None, torch.Tensor | None]:
        """The contrastive losses' parts of this process' rows, and their gradients by this process' vectors.

        The gradient by the temperature (and bias) goes straight to its parameter.
        """
        import torch

        wanted = {name: weight for name, weight in self.config.objectives.items() if name in CONTRASTIVE}
        if not wanted:
            return {}, None, None
        config, gather, n = self.config, self.processes.gather, len(images)
        captions, negatives = config.captions_per_image, config.negatives_per_image
        all_images = gather(images).requires_grad_()
        all_texts = gather(texts).requires_grad_()
        said, known, group = (
            gather(t.to(self.device)) for t in (batch.said, self._same_width(batch.known), batch.group)
        )
        total = len(all_images)

        # A picture with several captions is a row for each of them; none is another's negative.
        by_picture = all_texts.view(total, captions + negatives, -1)
        row_texts = by_picture[:, :captions].reshape(total * captions, -1)
        row_images = all_images.repeat_interleave(captions, 0)
        false_texts = by_picture[:, captions:].reshape(total * negatives, -1) if negatives else None
        rows = slice(self.processes.rank * n * captions, (self.processes.rank + 1) * n * captions)
        mine = slice(self.processes.rank * n, (self.processes.rank + 1) * n)
        text_said = said[:, :captions].reshape(-1)
        every_said = torch.cat([text_said, said[:, captions:].reshape(-1)])
        same = group[mine][:, None] == group
        true_texts = _says(known[mine], every_said)
        true_texts[:, : len(text_said)] |= same.repeat_interleave(captions, 1)
        true_texts = true_texts.repeat_interleave(captions, 0)
        true_images = _says(known, text_said[rows]).T | same.repeat_interleave(captions, 0)
        true_images = true_images.repeat_interleave(captions, 1)

        scale, bias = self.model.logit_scale.exp(), getattr(self.model, "logit_bias", None)
        losses = {}
        if "info_nce" in wanted:
            losses["info_nce"] = info_nce(
                row_images, row_texts, scale, rows=rows, true_texts=true_texts, true_images=true_images,
                false_texts=false_texts, hardness=config.hardness,
            )  # fmt: skip
        if "sigmoid" in wanted and bias is not None:
            losses["sigmoid"] = sigmoid(
                row_images, row_texts, scale, bias, rows=rows, true_texts=true_texts, false_texts=false_texts
            )
        if "distillation" in wanted:
            teacher_images, teacher_texts = (gather(t) for t in self._teach(batch))
            losses["distillation"] = distillation(
                row_images, row_texts, scale, teacher_images.repeat_interleave(captions, 0), teacher_texts,
                self.teacher.logit_scale, rows=rows,
            )  # fmt: skip
        if "intra_modal" in wanted:
            true_negatives = (said[mine, captions:, None] == known[mine, None]).any(-1)
            losses["intra_modal"] = intra_modal(
                by_picture[mine, :captions], by_picture[mine, captions:], scale, true_negatives, total
            )
        loss = sum(weight * losses[name] for name, weight in wanted.items())
        loss.backward()  # type: ignore[union-attr]
        self.processes.add_up([all_images.grad, all_texts.grad])
        per_text = captions + negatives
        text_rows = slice(mine.start * per_text, mine.stop * per_text)
        values = {name: value.item() for name, value in losses.items()}
        return values, all_images.grad[mine], all_texts.grad[text_rows]  # type: ignore[index]

    def _same_width(self, known: torch.Tensor) -> torch.Tensor:
        """Gathering wants equal shapes: pad to the widest of all processes by repeating."""
        if self.processes.size == 1:
            return known
        import torch

        width = int(self.processes.gather(torch.tensor([known.shape[1]], device=self.device)).max())
        return torch.cat([known, known[:, :1].expand(-1, width - known.shape[1])], 1)

    def _teach(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's unit vectors of this process' pictures and captions."""
        import torch

        if batch.teacher_pixels is None:
            raise ValueError("the batch was read without a teacher")
        images = self.teacher.encode_pixels(batch.teacher_pixels.numpy())
        texts = self.teacher.encode_texts(batch.captions)
        return torch.from_numpy(images).to(self.device), torch.from_numpy(texts).to(self.device)


def _lengths(tokens: torch.Tensor) -> torch.Tensor:
    """Positions up to the last that is not 0: a text itself may hold the id 0."""
    return tokens.shape[1] - (tokens != 0).flip(1).int().argmax(1)


def _says(known: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """bool (pictures, texts): whether the text is among those known of the picture."""
    import torch

    found = torch.zeros(len(known), len(said), dtype=torch.bool, device=known.device)
    for column in known.T:
        found |= column[:, None] == said
    return found


@contextmanager
def _still_statistics(model: Any, still: bool) -> Iterator[None]:
    """Batch norm's running statistics would count a micro-batch twice: let them rest on the first pass."""
    from torch.nn.modules.batchnorm import _BatchNorm

    parts = [part for part in model.modules() if isinstance(part, _BatchNorm)] if still else []
    before = [part.momentum for part in parts]
    for part in parts:
        part.momentum = 0.0
    try:
        yield
    finally:
        for part, momentum in zip(parts, before, strict=True):
            part.momentum = momentum
