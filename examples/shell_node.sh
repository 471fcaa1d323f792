#!/bin/sh
# A shell that takes part in a mesh, by JSON topics: it answers each number with its double.
#
# Run with `cargo build --bins && PATH="target/debug:$PATH" examples/shell_node.sh`; nothing else
# needs to run.
set -eu

# A mesh of our own, at a free port.
pipe=$(mktemp -u)
mkfifo "$pipe"
mesh coordinator --port 0 --json > "$pipe" &
coordinator=$!
trap 'kill $coordinator; rm -f "$pipe"' EXIT
read -r listening < "$pipe"
SHMESH_COORDINATOR=$(echo "$listening" | sed 's/.*"listening":"\([^"]*\)".*/\1/')
export SHMESH_COORDINATOR

# The node: for each message on one topic it sends one on another.
mesh topic echo numbers --count 3 | while read -r number; do
    mesh topic send doubles "$((2 * number))" --json-topic
done &

# Somebody who asks, and hears the answers.
mesh topic echo doubles --count 3 &
answers=$!
for number in 1 20 300; do
    mesh topic send numbers "$number" --json-topic
done
wait "$answers"
