"""OpenAI's Batch API: the prompts of a run as files of requests, which an endpoint answers within a day for less."""
