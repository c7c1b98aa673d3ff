"""Scripted logits: a logits processor of vLLM, for `--logits-processors`. The request says which tokens are generated."""

from vllm.v1.sample.logits_processor import AdapterLogitsProcessor


class Script(AdapterLogitsProcessor):
    """Token i of a request with `vllm_xargs={"script": tokens}` is `tokens[i]`."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params):
        tokens = (params.extra_args or {}).get("script")

        def force(generated, logits):
            logits.fill_(float("-inf"))
            # With asynchronous scheduling a step may run after the last token, whose result is dropped.
            logits[tokens[min(len(generated), len(tokens) - 1)]] = 0
            return logits

        return None if tokens is None else force
