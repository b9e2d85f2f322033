"""Simulated sites: public or synthetic records dealt to sites that exist in one machine's memory.

* A simulated site decides, trains, counts and signs with the code of a real one. It has no vault,
  no journal and no budget to spend: nothing of it lasts, and nothing is de-identified.
* Its noise comes from a seed, so that a run can be repeated. Whoever knows the seed can subtract
  the noise: what a simulation trains is private for nobody, and is kept nowhere.
"""
