#!/bin/sh
# Builds something: says which instance it is for, and takes a while.
set -eu
echo "building $1 for ${MURMUR_INSTANCE_ID:-the default instance}"
sleep "${SECONDS_TO_TAKE:-1}"
echo "$1 $MNEMOSYNE_JOB" >> "$MNEMOSYNE_WORKSPACE/built"
