from burnish.data.sources import Example as Example
from burnish.data.sources import LoadedData as LoadedData
from burnish.data.sources import Message as Message
from burnish.data.sources import load_examples as load_examples
from burnish.errors import BurnishError as BurnishError
from burnish.models.config import LoRAConfig as LoRAConfig
from burnish.models.loading import LoadedModel as LoadedModel
from burnish.models.loading import load_model as load_model
from burnish.models.lora import count_trainable_params as count_trainable_params
from burnish.models.reward import RewardModel as RewardModel
from burnish.models.reward import load_reward_model as load_reward_model
from burnish.pipeline.recipe import Recipe as Recipe
from burnish.pipeline.recipe import load_recipe as load_recipe
from burnish.pipeline.report import report as report
from burnish.pipeline.report_config import ReportConfig as ReportConfig
from burnish.pipeline.run import RecipeResult as RecipeResult
from burnish.pipeline.run import run_recipe as run_recipe
from burnish.rollout.sampler import Sample as Sample
from burnish.rollout.sampler import SamplingParams as SamplingParams
from burnish.rollout.sampler import sample as sample
from burnish.rollout.speakers import Speaker as Speaker
from burnish.rollout.speakers import load_speakers as load_speakers
from burnish.stages.config import DPOConfig as DPOConfig
from burnish.stages.config import RewardConfig as RewardConfig
from burnish.stages.config import SFTConfig as SFTConfig
from burnish.stages.dpo import train_dpo as train_dpo
from burnish.stages.merge import MergeResult as MergeResult
from burnish.stages.merge import merge_model as merge_model
from burnish.stages.ppo import train_ppo as train_ppo
from burnish.stages.ppo_config import PPOConfig as PPOConfig
from burnish.stages.reward import train_reward as train_reward
from burnish.stages.run import RunResult as RunResult
from burnish.stages.score import Scored as Scored
from burnish.stages.score import score_data as score_data
from burnish.stages.sft import train_sft as train_sft

__version__: str
__all__: list[str]
