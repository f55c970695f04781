// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title What licences and rewards ask of the registry
interface INodeRegistry {
    /// @notice Who owns a node, what it is and whether it serves; all zero if the key was never registered.
    function identity(bytes32 nodeKey) external view returns (address owner, uint8 kind, uint8 status);

    /// @notice Where slashed tokens go.
    function penaltyPool() external view returns (address);

    /// @notice Whether a piece of evidence was already used against a node.
    function evidenceUsed(bytes32 nodeKey, bytes32 evidence) external view returns (bool);

    /// @notice Takes up to `amount` from a node, and says how much it took.
    function slash(bytes32 nodeKey, uint128 amount, bytes32 evidence) external returns (uint128 taken);
}
