from vector_index.lru_cache import LRUCache


def test_the_least_recently_used_goes_first() -> None:
    cache: LRUCache[str | None] = LRUCache(2)
    made: list[str] = []

    def ask(key: str) -> str | None:
        return cache.get(key, lambda: made.append(key))

    for key in ("a", "b", "a", "c", "a", "b"):
        ask(key)
    assert made == ["a", "b", "c", "b"]
