"""The places where jobs run, behind one interface (`base.Place`): a process here, a container here, SageMaker."""
