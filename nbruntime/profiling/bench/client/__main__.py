"""Start the client process; its argument is the module path as JSON, its stdin has the plan."""

import json
import sys

if __name__ == "__main__":
    # It imports what its parent has imported, also where nbruntime is not installed.
    sys.path[:] = json.loads(sys.argv[1])
    from nbruntime.profiling.bench.client.main import main

    main()
