"""What can be set for one search: efSearch of a graph, nprobe of inverted lists, k_factor of a refinement."""

from collections.abc import Mapping
from typing import Any, Final

from vector_index import kinds
from vector_index.errors import BadParameter

Parameters = Mapping[str, int]

MOST_EF: Final = 10_000
MOST_FACTOR: Final = 1_000
MOST_CANDIDATES: Final = 200_000  # of one query, to be compared with its refined vectors
_TUNED_K: Final = 10  # the depth that parameters are measured at
# The k_factor of a deeper search, at least. With codes of one or four bits a number, of the best 100 of 60,000 a factor
# of 2 found 0.81 and one of 4 0.90; of the best 1,000, 0.86 and 0.96, in twice the time.
_LEAST_FACTOR: Final = 4


def allowed(index: Any) -> dict[str, int]:
    """Return the names that an index knows, each with the largest value allowed; the smallest is 1."""
    core = kinds.core_of(index)
    names = {}
    if kinds.is_hnsw(core):
        names["efSearch"] = MOST_EF
    if kinds.is_ivf(core):
        names["nprobe"] = int(core.nlist)
    if kinds.is_refined(index):
        names["k_factor"] = MOST_FACTOR
    return names


def check(parameters: Parameters, limits: Mapping[str, int]) -> None:
    """Check what somebody asks for against what an index allows.

    Raises:
        BadParameter: a name that the index does not know, or a value out of bounds; the message lists what is allowed.
    """
    for name, value in parameters.items():
        if name not in limits or not 1 <= value <= limits[name]:
            have = (
                ", ".join(f"{each} from 1 to {most:,}" for each, most in limits.items()) or "no parameters: it is exact"
            )
            raise BadParameter(f"{name[:50]} = {value:,} is not allowed; this index has {have}")


def at_depth(chosen: Parameters, asked: Parameters, k: int, rows: int, nlist: int) -> dict[str, int]:
    """Return the parameters of a search for the best `k` of `rows`.

    What was `chosen` at k = 10 is widened where more is wanted: a graph keeps k candidates, a refinement compares at
    least four times as many as are returned, and the lists visited hold, on the average, four times as many rows as are
    returned, or twice as many as are compared. What is `asked` for counts as it is.
    """
    parameters = {**chosen, **asked}
    if "efSearch" in parameters:
        parameters["efSearch"] = max(parameters["efSearch"], k)
    candidates = 2 * k
    if "k_factor" in parameters:
        if "k_factor" not in asked:
            least = _LEAST_FACTOR if k > _TUNED_K else 2
            parameters["k_factor"] = max(-(-parameters["k_factor"] * _TUNED_K // k), least)
        parameters["k_factor"] = max(1, min(parameters["k_factor"], MOST_CANDIDATES // k))
        candidates = k * parameters["k_factor"]
    if "nprobe" in parameters and "nprobe" not in asked and k > _TUNED_K:
        parameters["nprobe"] = min(nlist, max(parameters["nprobe"], -(-2 * candidates * nlist // max(rows, 1))))
    return parameters


def to_faiss(index: Any, parameters: Parameters, selector: Any = None) -> Any:
    """Return the faiss.SearchParameters for one call: they go with it, not into the index that threads share."""
    faiss = kinds.load_faiss()
    core = kinds.core_of(index)
    found: Any = None
    if kinds.is_hnsw(core):
        found = faiss.SearchParametersHNSW(efSearch=parameters.get("efSearch", 16), sel=selector)
    elif kinds.is_ivf(core):
        found = faiss.IVFSearchParameters(nprobe=parameters.get("nprobe", 1), sel=selector)
    elif selector is not None:
        found = faiss.SearchParameters(sel=selector)
    if found is not None and isinstance(kinds.base_of(index), faiss.IndexPreTransform):
        found = faiss.SearchParametersPreTransform(index_params=found)
    if kinds.is_refined(index):
        found = faiss.IndexRefineSearchParameters(k_factor=parameters.get("k_factor", 1), base_index_params=found)
    return found
