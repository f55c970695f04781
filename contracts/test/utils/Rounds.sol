// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {DrandBeacon} from "../../src/DrandBeacon.sol";
import {Vm} from "./Vm.sol";

/// Published rounds of drand's quicknet, from a file that the tests in Rust read, too.
abstract contract Rounds {
    Vm private constant VM = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    uint256 internal constant ROUNDS = 4;

    struct Round {
        uint64 round;
        uint256[4] words;
        bytes32 randomness;
    }

    function quicknet() internal returns (DrandBeacon) {
        return new DrandBeacon(quicknetKey(), 1692803367, 3);
    }

    function quicknetKey() internal view returns (uint256[8] memory key) {
        uint256[] memory words = VM.parseJsonUintArray(file(), ".public_key_words");
        for (uint256 i = 0; i < 8; ++i) {
            key[i] = words[i];
        }
    }

    function publishedRound(uint256 index) internal view returns (Round memory r) {
        string memory json = file();
        string memory at = string.concat(".rounds[", VM.toString(index), "]");
        r.round = uint64(VM.parseJsonUint(json, string.concat(at, ".round")));
        uint256[] memory words = VM.parseJsonUintArray(json, string.concat(at, ".words"));
        for (uint256 i = 0; i < 4; ++i) {
            r.words[i] = words[i];
        }
        r.randomness = VM.parseBytes32(string.concat("0x", VM.parseJsonString(json, string.concat(at, ".randomness"))));
    }

    function file() private view returns (string memory) {
        return VM.readFile("test/data/drand-quicknet.json");
    }
}
