from typing_extensions import Buffer

DEPTH_LIMIT: int
DIGITS_MAX: int
EXPONENT_MAX: int

class JsonError(ValueError):
    reason: str
    offset: int
    def __init__(self, reason: str, offset: int) -> None: ...

def check(data: Buffer, depth_max: int = 64) -> None: ...
