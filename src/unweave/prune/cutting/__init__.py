"""Parts of `shrink`: which units are dead, how constants and norms are kept right, how a smaller model is made."""
