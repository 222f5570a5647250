"""Ask a real model a question and watch the answer come: `make demo` runs this file.

It starts a server, streams an answer, asks again so that the prompt is in the cache, and stops the server.
"""

import psutil

from nbruntime import Runtime

QUESTION = "What is photosynthesis? Answer briefly."


def main() -> None:
    """Run the demo."""
    with Runtime(log_level="info") as runtime:  # "info": say on stderr how far the launch is
        print(runtime)
        tokenizer = runtime.get_tokenizer()
        messages = [{"role": "user", "content": QUESTION}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        print(f"\n> {QUESTION}")
        for ask in ("first time", "again"):
            print(f"\n[{ask}]")
            with runtime.endpoint.stream(prompt, temperature=0, max_new_tokens=128) as stream:
                for text in stream:
                    print(text, end="", flush=True)
            answer = stream.result()
            ttft = answer.timings.ttft * 1000
            print(f"\n  TTFT {ttft:.0f} ms, {answer.decode_tokens_per_second:.1f} tokens/s decode, ", end="")
            print(f"prompt {answer.prompt_tokens} tokens ({answer.cached_tokens} cached)")
        processes = psutil.Process().children(recursive=True)
    left = [process for process in processes if process.is_running()]
    print(f"\nServer stopped: {len(processes)} processes ended, {len(left)} left.")
    if left:
        raise SystemExit(f"still running: {left}")


if __name__ == "__main__":
    main()
