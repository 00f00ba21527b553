#!/bin/sh
# A syncer and two learners on this machine, each a process of its own, as in three places.
#
#   examples/two_sites/run.sh [FOLDER [TOKENS]]
#
# ATOLL names the command (default: atoll), PORT the syncer's port (default: 7420).
set -eu
folder=${1:-two-sites}
tokens=${2:-500000}
atoll=${ATOLL:-atoll}
address=127.0.0.1:${PORT:-7420}
run_file=$folder/$(basename "$folder").toml
invite=$folder/run.invite

syncer='' site_a='' site_b=''
stop() {
    for process in $site_a $site_b $syncer; do
        kill "$process" 2>/dev/null || true
    done
    wait
}
trap stop EXIT
trap 'exit 130' INT TERM

$atoll init "$folder" --address "$address" --learners 2 --preset tiny --tokens "$tokens"

# Terminal 1: where both sites can reach it. No GPU is needed.
$atoll syncer "$run_file" --dir "$folder" 2>"$folder/syncer.log" &
syncer=$!

# Terminal 2 and 3: the sites. They try again until the syncer is there.
$atoll learner "$run_file" --invite "$invite" --name site-a 2>"$folder/site-a.log" &
site_a=$!
$atoll learner "$run_file" --invite "$invite" --name site-b 2>"$folder/site-b.log" &
site_b=$!

# Each learner ends with the run, and says so with its exit code.
echo "training; $folder/*.log has what the three say, \`$atoll watch $folder\` how it stands"
wait "$site_a"
wait "$site_b"
site_a='' site_b=''

$atoll export "$folder" --out "$folder/model"
