"""String formats of JSON schemas: those that SGLang serves, as patterns.

A pattern is narrower than its format where a parser is: no 30 February, no year 0, no host without a letter.
"""

from __future__ import annotations

_YEAR = r"(000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})"
_LEAP_YEAR = r"(\d\d(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    rf"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
    rf"|{_LEAP_YEAR}-02-29)"
)
_CLOCK = r"([01]\d|2[0-3]):[0-5]\d"
_TIME = rf"{_CLOCK}:[0-5]\d(\.\d{{1,6}})?(Z|[+-]{_CLOCK})"
_NUMBER = r"\d{1,4}"
_DAY_TIME = rf"T({_NUMBER}H({_NUMBER}M({_NUMBER}S)?)?|{_NUMBER}M({_NUMBER}S)?|{_NUMBER}S)"
_DAYS = rf"({_NUMBER}Y({_NUMBER}M({_NUMBER}D)?)?|{_NUMBER}M({_NUMBER}D)?|{_NUMBER}D)"
_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_GROUP = "[0-9a-fA-F]{1,4}"
_IPV6 = "|".join(
    [
        f"({_GROUP}:){{7}}{_GROUP}",
        *(
            (f"({_GROUP}:){{{left - 1}}}{_GROUP}" if left else "")
            + "::"
            + (f"({_GROUP}(:{_GROUP}){{0,{6 - left}}})?" if left < 7 else "")
            for left in range(8)
        ),
    ]
)
_LABEL = "[A-Za-z0-9]+(-[A-Za-z0-9]+)*"
_TOP = "[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*"
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_URI_LETTER = r"([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_PATH = rf"(/{_URI_LETTER}*)*"
_REST = rf"(\?({_URI_LETTER}|[/?])*)?(#({_URI_LETTER}|[/?])*)?"
_SCHEME = "[A-Za-z][A-Za-z0-9+.-]*"
_AUTHORITY = rf"//({_LABEL}\.)*{_TOP}(:\d{{1,4}})?"
_OPAQUE = rf"(mailto|news|tel|urn):{_URI_LETTER}+(/{_URI_LETTER}+)*"
_VARIABLE = r"(\w|%[0-9A-Fa-f]{2})(\.?(\w|%[0-9A-Fa-f]{2}))*(:[1-9]\d{0,3}|\*)?"
_TEMPLATE = rf"\{{[+#./;?&=,!@|]?{_VARIABLE}(,{_VARIABLE})*\}}"
_POINTER = r"(/([^~/]|~[01])*)*"

FORMATS = {
    "date": _DATE,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": f"P({_DAYS}({_DAY_TIME})?|{_DAY_TIME}|{_NUMBER}W)",
    "email": rf"{_ATOM}+(\.{_ATOM}+)*@({_LABEL}\.)+[A-Za-z]{{2,24}}",
    "hostname": r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*",
    "ipv4": rf"({_BYTE}\.){{3}}{_BYTE}",
    "ipv6": f"({_IPV6})",
    "json-pointer": _POINTER,
    "relative-json-pointer": rf"(0|[1-9]\d*)(#|{_POINTER})",
    "time": _TIME,
    "uri": f"({_SCHEME}:{_AUTHORITY}{_PATH}{_REST}|{_OPAQUE})",
    "uri-reference": f"({_SCHEME}:{_AUTHORITY}{_PATH}|/?{_URI_LETTER}+{_PATH}){_REST}",
    "uri-template": f"({_URI_LETTER}|[/?#]|{_TEMPLATE})*",
    "uuid": "[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
}
"""By format, a pattern of `patterns`."""
