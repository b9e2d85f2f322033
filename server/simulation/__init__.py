"""`server simulate`: a plan's rounds over simulated sites, before anybody trains.

* The coordinator's rounds, checks and aggregation are `server.training`; the sites' guard, trainer,
  accountant and reports are a site's (`client.simulation`). Flower's simulation engine carries the
  messages, Ray's processes compute.
* Its noise comes from a seed, and no service is asked. Its plan is in no log, its keys were never
  admitted, and its model is removed with its folder: nothing of it can become a release.
"""
