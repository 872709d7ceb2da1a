"""One function per stage of the chain; each joins the packages below and returns a mergeable summary."""
