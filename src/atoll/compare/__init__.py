"""Methods side by side on one configuration: same weights, same data, same links and failures."""
