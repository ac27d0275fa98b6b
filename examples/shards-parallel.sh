#!/bin/sh
# One manifest, eight runs of this program, by GNU parallel; with --sshlogin on several machines. Each
# takes its share of the manifest, which does not depend on the order of the lines.
parallel mirror-git-to-s3 --manifest mirrors.txt --shard {}/8 ::: 0 1 2 3 4 5 6 7
