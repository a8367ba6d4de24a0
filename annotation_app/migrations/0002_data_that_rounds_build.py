from django.db import migrations, models

KINDS = [
    ('reward_training', 'Reward model training'), ('rejection', 'Rejection sampling'),
    ('ppo', 'PPO'), ('evaluate', 'Evaluation'), ('sampling', 'Response sampling'),
    ('reward_evaluation', 'Reward model evaluation'), ('reward_scaling', 'Reward model scaling'),
    ('reward_judging', 'Judging by a chat model'), ('sft', 'Supervised fine-tuning'),
    ('temperature', 'Temperature sweep'), ('dpo', 'DPO'), ('ghost_attention', 'Ghost Attention'),
    ('context_distillation', 'Context distillation'),
    ('instruction_keeping', 'Instruction keeping'),
]
INPUTS = ['checkpoint', 'snapshot', 'prompt_set', 'other_run', 'demonstration_set']


def exactly_one() -> models.Q:
    found = models.Q()
    for filled in INPUTS:
        found |= models.Q(**{f'{name}__isnull': name != filled for name in INPUTS})
    return found


class Migration(migrations.Migration):
    """The kinds of run that build a round's data or measure instructions, and runs as inputs."""

    dependencies = [('annotation_app', '0001_first_rows')]

    operations = [
        migrations.AlterField(
            model_name='run',
            name='kind',
            field=models.CharField(choices=KINDS, max_length=20),
        ),
        migrations.RemoveConstraint(model_name='run', name='run_kind_known'),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.CheckConstraint(condition=models.Q(('kind__in', [kind for kind, _ in KINDS])), name='run_kind_known'),
        ),
        migrations.RemoveConstraint(model_name='runinput', name='run_input_exactly_one'),
        migrations.RenameField(model_name='runinput', old_name='judging', new_name='other_run'),
        migrations.AddConstraint(
            model_name='runinput',
            constraint=models.CheckConstraint(condition=exactly_one(), name='run_input_exactly_one'),
        ),
    ]
