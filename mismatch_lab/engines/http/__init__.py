"""Engine `http`: servers that run already, vLLM's or SGLang's, asked and left as they are."""
