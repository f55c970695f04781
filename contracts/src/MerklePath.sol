// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title The root above a leaf
/// @notice What OpenZeppelin's `MerkleProof.processProofCalldata` computes (the tests compare the two), for half the
/// gas: a path of twenty levels is a good part of what a claim costs.
library MerklePath {
    /// @notice Hashes a leaf with its siblings, each pair in order of size.
    function root(bytes32[] calldata siblings, bytes32 leaf) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            hash := leaf
            let end := add(siblings.offset, shl(5, siblings.length))
            for { let at := siblings.offset } lt(at, end) { at := add(at, 0x20) } {
                let sibling := calldataload(at)
                // The scratch space: the smaller at 0x00, the greater at 0x20.
                let place := shl(5, gt(hash, sibling))
                mstore(place, hash)
                mstore(xor(place, 0x20), sibling)
                hash := keccak256(0, 0x40)
            }
        }
    }
}
