// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title What the escrow asks of a registry
interface IContainerRegistry {
    /// @notice The owner of an active Container; zero if the key is no Container's, or it is jailed or has left.
    function activeContainerOwner(bytes32 nodeKey) external view returns (address);
}
