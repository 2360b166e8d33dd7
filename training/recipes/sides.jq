# Scenes of two things side by side or one above the other, with the short captions that say so, and as negatives the same
# with the things exchanged: jq -c -f training/recipes/sides.jq runs/relations/captions.jsonl > runs/sides/captions.jsonl
select(.place | IN("left of", "right of", "above", "below"))
| .image |= "../relations/" + .
| .caption |= map(select(
    test("^an? \\w+ \\w+ (to the left of|to the right of|above|below) an? \\w+ \\w+$|^[^，]{4,7}在[^，]{4,7}(左边|右边|上面|下面)$")
    and (test("背景|号") | not)))
| .language = (.caption | map(if test("[a-z]") then "en" else "zh" end))
| .negatives = (.caption | map(
    sub("^(?<a>.*) (?<r>to the left of|to the right of|above|below) (?<b>.*)$"; "\(.b) \(.r) \(.a)")
    | sub("^(?<a>.*)在(?<b>.*)(?<r>左边|右边|上面|下面)$"; "\(.b)在\(.a)\(.r)")))
