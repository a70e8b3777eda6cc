"""Decoder-only language models by their definition, from config.json and the checkpoint's tensors.

transformers is the trainer's own code, so a trainer that agrees with it proves nothing about it.
Here the same architectures are written a second time, apart from it and as plainly as torch allows:
the third opinion where an engine and transformers disagree.

| module      | what it defines                                                       |
| ----------- | --------------------------------------------------------------------- |
| `recipes`   | what config.json leaves unsaid, an architecture a row, with its source |
| `rotary`    | frequencies of every kind of rotary embedding, and turning by them    |
| `modules`   | norms, attention, gated and plain MLPs, routers, experts              |
| `model`     | layers in the order of the recipe, embedding, head                    |
| `tensors`   | the checkpoint's own tensors, under the names of the model            |

An architecture without a row is not defined, and nobody guesses: the verdict then says that engine
and transformers disagree, and leaves open who is right.
"""
