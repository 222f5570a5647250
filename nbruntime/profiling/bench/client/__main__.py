"""Start the client process; the first line of stdin has the module path, the second the plan."""

import json
import sys

if __name__ == "__main__":
    # It imports what its parent has imported, also where nbruntime is not installed.
    sys.path[:] = json.loads(sys.stdin.buffer.readline())
    from nbruntime.profiling.bench.client.main import main

    main(sys.stdin.buffer)
