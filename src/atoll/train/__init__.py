"""The reference trainer: a small decoder, its data, one step, one plain loop.

Read in this order: `settings`, `model`, `order`, `data`, `sources`, `schedule`, `step`, `loop`.
Nothing is imported here, so that the settings can be read without loading torch.
"""
