from trainings import hide_gpus

hide_gpus()
