#!/usr/bin/env bash
# Runs i-PI and one driver, and ends with the exit code of the first that failed:
#
#     ./run.sh INPUT.xml [OPTIONS]
#
# OPTIONS are those of the driver (docs/ipi.md), by default model=water,template=start.extxyz. To go on with an
# interrupted run: ./run.sh RESTART. The log of i-PI is INPUT.log.
set -uo pipefail

input=${1:?usage: ./run.sh INPUT.xml [OPTIONS]}
options=${2:-model=water,template=start.extxyz}
log=${input%.xml}.log
address=$(sed -n 's/.*<address> *\([^ <]*\).*/\1/p' "$input")
driver=$(tesseral ipi-driver) || exit

i-pi "$input" > "$log" 2>&1 &
server=$!
trap 'kill $server 2> /dev/null; wait $server' EXIT
until grep -q 'polling thread' "$log"; do
  kill -0 $server 2> /dev/null || { cat "$log" >&2; wait $server; exit 1; }
  sleep 0.2
done
i-pi-py_driver -m custom -P "$driver" -o "$options" -u -a "$address" || exit
trap - EXIT
wait $server
