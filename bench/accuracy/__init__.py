"""Test accuracy of private federated training on real data, beside others at the same ε.

    python -m bench.accuracy [--quick] [--tutorials [alone]] [--seeds N] [--only DATASET]
                            [--data DIR]

* `federated_dp_epsilon_*`: four sites, each with its own noise and its own ε at δ = 1e-5, under the
  phases that a plan gets which states ε only (`recommended_for`). `central_dp_epsilon_*`: one site
  with all the data, likewise. Training is the product's own `SiteTrainer` and aggregation in one
  process, without network.
* `federated_plain` and `central_plain`: the same code with noise and clipping too small to matter.
* `opacus_fedavg_epsilon_*`: Opacus with its tutorials' settings and FedAvg
  (`bench.accuracy.tutorials` says exactly what), at the same ε and δ a site.
* Figures are means over `--seeds` runs of the noise; standard deviations are printed. FedAvg with
  Opacus takes an hour on text: it is run there with `--tutorials` only, and once.
* Data are public and in `FIDUCIARY_DATA`, by default ../shared/data; `bench.accuracy.datasets` says
  what a subject is, who holds what, and what is held out.
* The last line is one JSON object of means; progress goes to standard error.

Exit status: 0; 77 when the data is not there (what test harnesses call "skipped"); 2 for bad usage.
"""
