#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the demo and the stories use as a stock resolver: dig. Does nothing when it is there.
set -euo pipefail
command -v dig >/dev/null && exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends bind9-dnsutils >/dev/null
