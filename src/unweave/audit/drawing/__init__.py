"""Did a text-to-image pipeline forget? Relative to the original and to pipelines that never saw the concepts."""
