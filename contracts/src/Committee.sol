// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Who signed, of a committee that is known by its hash
/// @notice Members in the order of the draw; for each that signed, its signature, for each that did not, its address.
/// The members recovered and given make up the committee's hash: whoever is not of it, or stands elsewhere in it,
/// changes that hash.
library Committee {
    error BadSignatures();

    /// @param digest what was signed
    /// @param signers bit i is set where member i signed
    /// @param packed per member 64 bytes of EIP-2098 signature, or 20 bytes of address
    /// @return hash `keccak256(abi.encodePacked(members))` of an `address[]`: members as words of 32 bytes
    /// @return members how many there are, at most 32
    /// @return signed how many of them signed
    function recover(bytes32 digest, uint32 signers, bytes calldata packed)
        internal
        view
        returns (bytes32 hash, uint256 members, uint256 signed)
    {
        bool good = true;
        // Assembly, since a post must stay cheap: builtins would allocate memory anew for every member.
        assembly ("memory-safe") {
            // Memory behind the free pointer, given back at the end: the input of ecrecover, then the members.
            let input := mload(0x40)
            let list := add(input, 0x80)
            mstore(input, digest)
            let cursor := packed.offset
            let end := add(cursor, packed.length)
            for {} lt(cursor, end) {} {
                let member := 0
                switch and(shr(members, signers), 1)
                case 0 {
                    member := shr(96, calldataload(cursor))
                    cursor := add(cursor, 20)
                }
                default {
                    let vs := calldataload(add(cursor, 32))
                    mstore(add(input, 0x20), add(27, shr(255, vs)))
                    mstore(add(input, 0x40), calldataload(cursor))
                    mstore(add(input, 0x60), shr(1, shl(1, vs)))
                    // A signature of nobody leaves the zero. A high s is no harm: a member counts once anyway.
                    mstore(0, 0)
                    pop(staticcall(gas(), 1, input, 0x80, 0, 0x20))
                    member := mload(0)
                    cursor := add(cursor, 64)
                    signed := add(signed, 1)
                }
                mstore(add(list, shl(5, members)), member)
                members := add(members, 1)
                if or(iszero(member), gt(members, 32)) {
                    good := 0
                    break
                }
            }
            hash := keccak256(list, shl(5, members))
            good := and(good, and(eq(cursor, end), iszero(shr(members, signers))))
        }
        if (!good) revert BadSignatures();
    }
}
