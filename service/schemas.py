"""What requests and answers look like."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    Json,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

Text = Annotated[str, StringConstraints(max_length=10_000)]
_MANY = 10_000  # more is refused before it is looked at one by one; the settings allow fewer
Include = Literal["metadata", "captions", "vector"]


class Strict(BaseModel):
    """Unknown names are errors: a misspelt option is never ignored."""

    model_config = ConfigDict(extra="forbid")


class ImageInput(Strict):
    """One picture: exactly one of `url` (http, https or a data: URI), `base64` or `id` (of an indexed picture)."""

    url: str | None = None
    base64: str | None = None
    id: Text | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> ImageInput:
        if sum(value is not None for value in (self.url, self.base64, self.id)) != 1:
            raise ValueError("give exactly one of url, base64, id")
        return self


class QueryPart(Strict):
    """Exactly one of `text`, `image`, `vector`; `weight` counts in a composed query and may be negative."""

    text: Text | None = None
    image: ImageInput | None = None
    vector: list[FiniteFloat] | None = Field(None, max_length=65_536)
    weight: FiniteFloat = 1.0

    @model_validator(mode="after")
    def _exactly_one(self) -> QueryPart:
        if sum(value is not None for value in (self.text, self.image, self.vector)) != 1:
            raise ValueError("give exactly one of text, image, vector")
        return self


def _shape(value: Any) -> str:
    return "parts" if isinstance(value, list) else "part"


# One part, or a composed query; told apart by their shape, so that errors speak only of what was meant.
Query = Annotated[
    Annotated[QueryPart, Tag("part")] | Annotated[list[QueryPart], Field(min_length=1, max_length=16), Tag("parts")],
    Discriminator(_shape),
]


class SearchRequest(Strict):
    """A search: `query` or, for a batch, `queries`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": {"text": "a red star"}, "k": 3},
                {"query": [{"text": "a red star"}, {"text": "striped", "weight": -0.5}], "k": 3},
                {"queries": [{"text": "红色星形"}, {"text": "four blue circles"}], "include": ["captions"]},
                {
                    "query": {"text": "a star"},
                    "filter": {"background": {"$in": ["white", "beige"]}, "count": {"$gt": 1}},
                },
            ]
        }
    )

    query: Query | None = None
    queries: Annotated[list[Query], Field(min_length=1, max_length=_MANY)] | None = None
    k: int = Field(10, ge=1, le=10_000)
    offset: int = Field(0, ge=0, le=10_000)
    min_score: FiniteFloat | None = None
    exact: bool = Field(False, description="search every vector instead of the approximate index")
    params: dict[str, int] | None = Field(
        None,
        description="search parameters in place of those measured for the target recall: efSearch of a graph, nprobe of"
        " inverted lists, k_factor of a refinement",
        examples=[{"efSearch": 200}, {"nprobe": 32, "k_factor": 4}],
    )
    filter: dict[str, Any] | None = Field(
        None,
        description="conditions on columns: $eq $ne $gt $gte $lt $lte $in $nin $exists, with $and $or $not",
        examples=[{"background": "white", "count": {"$gte": 2}}],
    )
    include: list[Include] = Field(default_factory=list, max_length=16, json_schema_extra={"default": []})
    group_by: str | None = Field(None, description="a column: only the best hit of each of its values", max_length=200)
    facets: list[Annotated[str, StringConstraints(max_length=200)]] = Field(
        default_factory=list,
        max_length=10,
        description="columns: how often each value occurs among the rows that the filter keeps",
        json_schema_extra={"default": []},
    )

    @model_validator(mode="after")
    def _one_or_many(self) -> SearchRequest:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give exactly one of query and queries")
        return self


class ByUrl(Strict):
    """A search as a URL, or the fields of a form, tell of it: lists with commas, or named more than once."""

    text: str | None = Field(None, examples=["a red star"])
    image_id: str | None = None
    k: int = 10
    offset: int = 0
    min_score: float | None = None
    exact: bool = False
    params: Json[dict[str, Any] | None] | None = Field(None, description="as of POST", examples=['{"efSearch": 200}'])
    filter: Json[dict[str, Any] | None] | None = Field(None, description="as of POST", examples=['{"count": 1}'])
    include: list[str] = Field(default_factory=list, description="metadata, captions, vector")
    group_by: str | None = None
    facets: list[str] = Field(default_factory=list, description="columns")

    @field_validator("include", "facets")
    @classmethod
    def _without_commas(cls, names: list[str]) -> list[str]:
        return [name.strip() for each in names for name in each.split(",") if name.strip()]

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, Any]]) -> ByUrl:
        """Raises ValidationError; of what is no list the last counts."""
        found: dict[str, Any] = {}
        for name, value in pairs:
            found[name] = [*found.get(name, []), value] if name in ("include", "facets") else value
        return cls.model_validate(found)


class Hit(BaseModel):
    """One result; `score` is the cosine similarity, `rank` counts from 1 over all pages."""

    id: str
    score: float
    rank: int
    uri: str | None = None
    thumbnail_url: str | None = None
    text: str | None = None
    image_ids: list[str] | None = None
    captions: list[str] | None = None
    metadata: dict[str, Any] | None = None
    vector: list[float] | None = None


class Took(BaseModel):
    """Milliseconds."""

    encode: float
    search: float
    total: float


class Hits(BaseModel):
    hits: list[Hit]


class Facet(BaseModel):
    """A value, and how many of the rows that the filter keeps have it."""

    value: str | int | float | bool
    count: int


class SearchAnswer(BaseModel):
    """`hits` for a query, `results` (one entry a query) for a batch; `facets` by column, the 20 commonest values."""

    hits: list[Hit] | None = None
    results: list[Hits] | None = None
    facets: dict[str, list[Facet]] | None = None
    snapshot: str
    model: str
    took_ms: Took


class EmbeddingsRequest(Strict):
    """OpenAI's shape and `modality`; an image is a URL or a data: URI."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": ["a red star", "红色星形"]}]})

    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=_MANY)]
        | str
        | Annotated[list[str], Field(min_length=1, max_length=_MANY)]
    )
    modality: Literal["text", "image"] = "text"
    encoding_format: Literal["float", "base64"] = "float"
    model: str | None = None
    user: str | None = None


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class RankRequest(Strict):
    """One `image` against `texts` (zero-shot classification), or one `text` against `images`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "a red star", "images": [{"id": "0123456789abcdef"}]}]}
    )

    image: ImageInput | None = None
    texts: Annotated[list[Text], Field(min_length=1, max_length=_MANY)] | None = None
    text: Text | None = None
    images: Annotated[list[ImageInput], Field(min_length=1, max_length=_MANY)] | None = None

    @model_validator(mode="after")
    def _one_side_each(self) -> RankRequest:
        one_image = self.image is not None and self.texts is not None and self.text is None and self.images is None
        one_text = self.text is not None and self.images is not None and self.image is None and self.texts is None
        if one_image == one_text:
            raise ValueError("give image and texts, or text and images")
        return self


class Ranked(BaseModel):
    """`index` is the candidate's place in the request."""

    index: int
    score: float
    probability: float


class RankAnswer(BaseModel):
    """Best first; probabilities are a softmax at the model's own temperature."""

    results: list[Ranked]
    model: str
    temperature: float


class ImageItem(BaseModel):
    """`width` and `height` in px; `duplicate_uris` are further places of the same picture.

    What nobody has looked at, since only its vector was imported, has null for what its bytes would tell.
    """

    id: str
    uri: str
    duplicate_uris: list[str]
    width: int | None
    height: int | None
    sha256: str | None
    captions: list[str]
    thumbnail_url: str | None
    content_url: str
    metadata: dict[str, Any]
