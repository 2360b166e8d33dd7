"""crossmodal search"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crossmodal.place import place


def search(
    index: Annotated[Path | None, typer.Argument(help="The index directory.")] = None,
    store: Annotated[str | None, typer.Option(help="Where the index lies instead: milvus://HOST:PORT/NAME")] = None,
    text: Annotated[str | None, typer.Option(help="Words to search for.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to search for.")] = None,
    target: Annotated[str, typer.Option(help="images or texts")] = "images",
    k: Annotated[int, typer.Option("-k", help="How many results.", min=1, max=10_000)] = 10,
    model: Annotated[str | None, typer.Option(help="Model reference; the snapshot's own when not given.")] = None,
    exact: Annotated[bool, typer.Option(help="Search every vector.")] = False,
    filter: Annotated[
        str | None, typer.Option(metavar="JSON", help="Conditions on columns, as the REST API has them.")
    ] = None,
    params: Annotated[
        str | None, typer.Option(metavar="JSON", help='Search parameters, as of the REST API: {"efSearch": 200}')
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the REST API's answer.")] = False,
) -> None:
    """Search an index from the shell."""
    from crossmodal.output import print_json, print_table

    if (text is None) == (image is None):
        raise typer.BadParameter("give exactly one of --text and --image")
    if target not in ("images", "texts"):
        raise typer.BadParameter(f"{target!r} is not images or texts", param_hint="--target")
    answer = _search(index, store, text, image, target, k, model, exact, filter, params)
    if json:
        print_json(answer)
        return
    rows = [
        (hit["rank"], f"{hit['score']:.4f}", hit["id"], hit.get("uri") or hit.get("text")) for hit in answer["hits"]
    ]
    print_table(["rank", "score", "id", target[:-1]], rows)


def _search(
    index: Path | None,
    store: str | None,
    text: str | None,
    image: Path | None,
    target: str,
    k: int,
    model: str | None,
    exact: bool,
    filter: str | None,
    params: str | None,
) -> dict[str, Any]:
    """One request through the service's own engine."""
    import asyncio
    import json
    import time

    from pydantic import ValidationError

    from dual_encoder.image import MAX_BYTES
    from service.answer import answer
    from service.engine import Engine
    from service.schemas import SearchRequest
    from service.settings import Settings

    query: dict[str, Any] = {"text": text}
    picture = b""
    if image is not None:
        with image.open("rb") as file:
            picture = file.read(MAX_BYTES + 1)  # /dev/zero has no end
        query = {"image": {"base64": ""}}
    options: dict[str, Any] = {"query": query, "k": k, "exact": exact}
    for name, value in (("filter", filter), ("params", params)):
        try:
            options[name] = None if value is None else json.loads(value)
        except ValueError as error:
            raise ValueError(f"--{name}: not JSON: {error}") from None
    try:
        wanted = SearchRequest.model_validate(options)
    except ValidationError as error:
        from service.problems import explain  # with FastAPI: 0.1 s, which a search that is good is spared

        raise ValueError(explain(error.errors())) from None
    given = place(index, store) | ({} if model is None else {"model": model})
    engine = Engine(Settings(**given), lazy=True)
    try:
        found = asyncio.run(answer(engine, target, wanted, time.perf_counter(), picture))  # type: ignore[arg-type]
    finally:
        engine.close()
    return json.loads(found)  # type: ignore[no-any-return]
