"""The journal, the projector, takeovers and checks, without servers."""
