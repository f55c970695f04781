#!/usr/bin/env bash
# Builds the engine for Vulkan and runs its tests with all layers on a Vulkan device: the machine's card, or Mesa's software
# device (llvmpipe) where there is none, which shows that the way works and says nothing of its speed. Not a part of
# `make test`: llama.cpp is compiled for it once more, with all of its shaders, which takes half an hour on two cores.
#
#   scripts/vulkan.sh [FILTER]
. "$(dirname "$0")/lib.sh"

need_toolchains
need base run
need_vulkan
export MUSTER_TEST_GPU_LAYERS=99
# llama.cpp passes over devices that are no cards, unless they are named.
export GGML_VK_VISIBLE_DEVICES=${GGML_VK_VISIBLE_DEVICES:-0}
cargo test --locked -p muster-engine --features vulkan --test it -- "${1:-llama::}"
