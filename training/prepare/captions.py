"""What is no caption: empty, too short, too long, boilerplate, a file name, not text at all. English and Chinese."""

from __future__ import annotations

import ast
import re
import unicodedata

from training.prepare.options import Options

_IMAGE_SUFFIX = r"\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic|heif|avif|svg|raw|cr2|nef|arw|dng|psd)"

# The whole caption is one of these.
_WHOLE = re.compile(
    r"""(?:
      \S+(?:\s\S+){0,3}""" + _IMAGE_SUFFIX + r"""          # a file name
    | (?:img|image|dsc[nf]?|_?dsc|pict?|photo|picture|p|screenshot|screen[ ]shot|scan|mvimg|pxl|vid|wp|cimg|imag|hpim
        |mmexport|whatsapp[ ]image|snapchat|fb_img|received|untitled|unnamed|download|file|slide|figure|fig
        |微信图片|微信截图|屏幕截图|截图|截屏|图片|图像|照片|扫描|未命名|未标题|无标题|图|新建)
        [\s_.#:()-]*(?:\d[\d\s_.:()-]*(?:at|am|pm|下午|上午)?[\s\d.:_()-]*)?                          # IMG_1234
    | (?:no[ ])?(?:image|photo|picture|pic|thumbnail|thumb|icon|logo|banner|header|avatar|cover|gallery|preview)
        (?:[ ](?:not[ ](?:found|available)|unavailable|coming[ ]soon|available|placeholder|gallery|credit))?
    | (?:image|photo|picture)[ ](?:may[ ]contain|description|caption|alt)\W*
    | placeholder|alt(?:[ ]text)?|null|nil|none|nan|n/?a|undefined|unknown|empty|todo|tbd|lorem[ ]ipsum.*|default|test
    | true|false|title|caption|description|no[ ](?:title|caption|description|alt)|image[ ]description|untitled.{0,12}
    | 暂无(?:图片|描述|标题|说明)?|无|无(?:图|描述|说明)|没有(?:图片|描述|标题)|加载中\W*|图片加载(?:中|失败)\W*
    | 配图|题图|封面|头像|缩略图|示意图|资料图片?|网络图片?|来源网络|广告|二维码|默认|未知|空
    )""",
    re.IGNORECASE | re.VERBOSE,
)  # fmt: skip

# Taken out of the caption; what is left must be most of it.
_PHRASES = re.compile(
    r"""
      https?://\S+ | www\.\S+ | \S+@\S+\.\w+ | </?\w[^>]*> | &\w+; | \#\w*\d{4,}\w*
    | \bclick\b[^.,;]*?\b(?:enlarge|zoom|view|see|open|download|here)\b
        (?:[ ](?:full[ -]?size|larger?|image|photo|picture))*
    | \b(?:tap|hover|roll[ ]over|scroll)[ ](?:to|over|down)[ ]\w+(?:[ ]image)?
    | \b(?:view|see|show)[ ](?:full[ -]?size|larger?|original|all|more)(?:[ ](?:image|photo|picture)s?)?
    | \b(?:enlarge|zoom)[ ](?:this[ ])?(?:image|photo|picture)\b
    | \b(?:shutterstock|i?stock(?:photo)?|getty(?:[ ]?images)?|alamy|dreamstime|123rf|depositphotos|adobe[ ]?stock
        |fotolia|bigstock(?:photo)?|freepik|pixabay|unsplash|pexels|vecteezy|flickr|pinterest|reuters
        |wikimedia(?:[ ]commons)?)
        (?:\.com)?(?:\b|(?=_))(?:[\s_:\#-]*\d+)?
    | \broyalty[- ]free\b(?:[ ](?:stock[ ])?(?:images?|photos?|pictures?|vectors?|illustrations?))?
    | \bstock[ ](?:images?|photos?|photography|pictures?|vectors?|illustrations?|footage)\b(?:[ ]id)?
    | \b(?:photo|image|picture|stock)[ ]?(?:id|no|number|\#)\b[\s:.\#-]*\d* | \ball[ ]rights[ ]reserved\b
    | (?:©|\(c\)|\bcopyright\b)[^.;]* | \b(?:photo|image|picture)[ ](?:by|courtesy[ ]of|credits?|source)\b[^.;,]*
    | \b(?:share|pin|follow)(?:[ ]\w+)?[ ](?:on|to|us)[ ](?:facebook|twitter|pinterest|instagram|x|us)\b | \bpin[ ]it\b
    | \b(?:read|learn|find[ ]out)[ ]more\b | \bsubscribe(?:[ ]now)?\b | \badvertisement\b
    | \bbuy[ ]now\b | \bfree[ ]download\b
    | \b(?:free|hd)?[ ]?wallpapers?[ ](?:free[ ])?download\b | \bloading\b\W*
    | \b\d{4}[-/.]\d{1,2}[-/.]\d{1,2}\b | \b\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}\b | \b\d{1,2}:\d{2}(?::\d{2})?\b
    | \d{2,4}年(?:\d{1,2}月)?(?:\d{1,2}[日号])? | \d{1,2}月\d{1,2}[日号]
    | \b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b | \b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b
    | (?:点击|点此|单击|双击|长按|扫码|扫描|右键)(?:图片|此处|这里|这儿)?
        (?:可以|可|即可|来)?(?:查看|放大|看|打开|下载|进入|保存|关注|识别)?(?:大图|原图|更多|全图|图片|二维码|下载)?
    | (?:查看|下载|看|放大)(?:大图|原图|更多|全图|高清大?图) | 阅读(?:全文|更多|原文)
    | (?:视觉中国|图虫创意|图虫|站酷海洛|包图网|千图网|摄图网|昵图网|全景网?|东方ic|百度图片|花瓣网?)(?:[\s:：_-]*\d+)?
    | (?:图片|照片|图)?(?:来源|来自|摄影|摄|作者|版权)[:：/][^，。；,;]* | (?:图片|照片)来[自源于]+(?:网络|互联网)?
    | 版权所有(?:[^，。；]*)? | 转载请注明[^，。]*
    | (?:高清)?(?:图片|素材|壁纸)(?:免费)?下载 | 图片大全 | 素材网 | 免费下载 | 侵删 | 编号[:：\s]*\w+
    """,
    re.IGNORECASE | re.VERBOSE,
)
_MOST = 0.5  # of the letters must be left
_STRINGS = re.compile(r"[\{\[(].*[\}\])]", re.DOTALL)


def clean_caption(text: str) -> str:
    """White space and control characters become single spaces; nothing else is changed."""
    if text.isprintable():  # has no control characters
        return " ".join(text.split())
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text).split())


def caption_length(text: str) -> int:
    """Characters; a full-width one counts as two, because it says as much."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def refuse_caption(text: object, options: Options) -> tuple[str, str] | None:
    """(step, reason) if `text`, cleaned, is no caption."""
    if not isinstance(text, str):
        return "caption not text", f"the caption is not a string but {type(text).__name__}"
    if not text:
        return "caption empty", "the caption is empty"
    if (kind := _literal(text)) is not None:
        return "caption not text", f"the caption is not a string but a {kind}"
    length = caption_length(text)
    if length < options.min_caption:
        return "caption short", f"its length is {length}, less than {options.min_caption}"
    if options.max_caption and length > options.max_caption:
        return "caption long", f"its length is {length:,}, more than {options.max_caption:,}"
    if options.boilerplate and (reason := boilerplate(text)):
        return "boilerplate", reason
    return None


def boilerplate(text: str) -> str | None:
    """Why a caption says nothing of its picture, or None; one of more than 2,000 characters says something."""
    if len(text) > 2000:  # the patterns' worst case is quadratic
        return None
    bare = text.strip(" .,:;!?-_|…。，：；！？、·\"'“”()[]")
    if _WHOLE.fullmatch(bare):
        return "a file name or a placeholder"
    letters = _letters(text)
    if not letters:
        return "no letters, only numbers or marks"
    rest = _PHRASES.sub(" ", text)
    if rest != text and (left := _letters(rest)) < _MOST * letters:
        return f"mostly boilerplate: {letters - left} of {letters} letters"
    if " " not in bare and _is_id(bare):
        return "an identifier"
    return None


def _letters(text: str) -> int:
    return sum(c.isalpha() for c in text)


def _is_id(word: str) -> bool:
    """One Latin word of letters and digits mixed, such as a9f3_22b1x or SKU-99812: more digits than letters."""
    return word.isascii() and len(word) >= 6 and sum(c.isdigit() for c in word) > sum(c.isalpha() for c in word)


def _literal(text: str) -> str | None:
    """The kind of a value that some table wrote out as text: a dict, a list, a tuple."""
    if not _STRINGS.fullmatch(text) or len(text) > 10_000:
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return type(value).__name__ if isinstance(value, dict | list | tuple | set) else None
