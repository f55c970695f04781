// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Who signed, of a committee that is known by its hash
/// @notice Members in the order of the draw; for each that signed, its signature, for each that did not, its address.
/// The members recovered and given make up the committee's hash: whoever is not of it, or stands elsewhere in it,
/// changes that hash.
library Committee {
    /// @notice Signatures or members are malformed.
    error BadSignatures();

    /// @param digest what was signed
    /// @param signers bit i is set where member i signed; a whole word, so that no bit beyond a smaller type slips in
    /// @param packed per member 64 bytes of EIP-2098 signature, or 20 bytes of address
    /// @return hash `keccak256(abi.encodePacked(members))` of an `address[]`: members as words of 32 bytes
    /// @return members how many there are
    /// @return signed how many of them signed
    function recover(bytes32 digest, uint256 signers, bytes calldata packed)
        internal
        view
        returns (bytes32 hash, uint256 members, uint256 signed)
    {
        bool good;
        // Assembly, since a post must stay cheap: builtins would allocate memory anew for every member.
        assembly ("memory-safe") {
            // Memory behind the free pointer, given back at the end: the input of ecrecover, then the members.
            let input := mload(0x40)
            let list := add(input, 0x80)
            let to := list
            mstore(input, digest)
            let cursor := packed.offset
            let end := add(cursor, packed.length)
            good := 1
            for {} lt(cursor, end) { to := add(to, 0x20) } {
                if and(signers, 1) {
                    let vs := calldataload(add(cursor, 32))
                    mstore(add(input, 0x20), add(27, shr(255, vs)))
                    mstore(add(input, 0x40), calldataload(cursor))
                    // A high s is no harm: a member counts once anyway.
                    mstore(add(input, 0x60), shr(1, shl(1, vs)))
                    pop(staticcall(gas(), 1, input, 0x80, to, 0x20))
                    // A signature of nobody returns nothing instead of a word.
                    good := and(good, shr(5, returndatasize()))
                    signed := add(signed, 1)
                    signers := shr(1, signers)
                    cursor := add(cursor, 64)
                    continue
                }
                signers := shr(1, signers)
                mstore(to, shr(96, calldataload(cursor)))
                cursor := add(cursor, 20)
            }
            hash := keccak256(list, sub(to, list))
            members := shr(5, sub(to, list))
            good := and(good, and(eq(cursor, end), iszero(signers)))
        }
        if (!good) revert BadSignatures();
    }
}
