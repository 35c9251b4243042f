"""What a job may be told beyond the fields that every job has.

    submit ──checked──► JobOptions ──JSON──► the key `more` of the job's options ──► `jobs.options`

The shard table carries the text along with the job, through the log and the tables, without a look
inside. A field that is not given is not stored; a job that is told nothing special has none at all.
A reader passes over fields that it does not know: nodes of two versions run side by side.
"""

import msgspec


class JobOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One field a feature; the defaults are those of a plain job."""

    def stored(self) -> bytes | None:
        """The JSON text, or None where nothing special was said."""
        return None if self == _PLAIN else msgspec.json.encode(self)


_PLAIN = JobOptions()
_decode = msgspec.json.Decoder(JobOptions).decode


def read_options(text: bytes | None) -> JobOptions:
    """The options of a job, as `stored` gave them."""
    return _PLAIN if text is None else _decode(text)
