"""`atoll plan`: from a model, sites, lines, failures, prices and a budget to settings with reasons.

ask        what is asked: sites, the syncer's place, the model, the budget; from a TOML file
choice     P, H, K, tau and precision: the finest that all lines, the syncer and prices allow
needs      bandwidth, memory, disk, join time and cost, by the sizes the real code has
outlook    expected goodput and participation: failures, lines and paces simulated
baseline   data-parallel over the same lines
plan       all of it, with a sentence for each, the bottleneck, and what would help
"""
