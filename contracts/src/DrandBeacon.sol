// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Rounds of a drand beacon, checked on the chain
/// @notice For beacons of the scheme `bls-unchained-g1-rfc9380` (drand's quicknet, or a development network's own key):
/// the signature is a point of G1 of BLS12-381, over the SHA-256 of the round's number (8 bytes, big-endian) hashed to
/// the curve as RFC 9380 says; the randomness is the SHA-256 of the compressed signature. Checked with the precompiles
/// of EIP-2537.
///
/// {verify} answers anybody. {submit} also remembers: a ring of slots of one word, each the hash of a round and its
/// randomness, so that who uses a randomness gives it along with its round to {known}. A later round may take an older
/// one's slot; it can be submitted again.
contract DrandBeacon {
    /// @notice Rounds that are remembered at a time.
    uint256 public constant RING = 64;

    /// BLS12-381's field modulus p: the upper 128 and the lower 256 of its 384 bits.
    uint256 private constant P_HI = 0x1a0111ea397fe69a4b1ba7b6434bacd7;
    uint256 private constant P_LO = 0x64774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab;
    /// (p - 1) / 2: a y above it is the greater of the two.
    uint256 private constant HALF_HI = 0x0d0088f51cbff34d258dd3db21a5d66b;
    uint256 private constant HALF_LO = 0xb23ba5c279c2895fb39869507b587b120f55ffff58a9ffffdcff7fffffffd555;

    /// The negated generator of G2, as EIP-2537 writes it.
    uint256 private constant G2_0 = 0x00000000000000000000000000000000024aa2b2f08f0a91260805272dc51051;
    uint256 private constant G2_1 = 0xc6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb8;
    uint256 private constant G2_2 = 0x0000000000000000000000000000000013e02b6052719f607dacd3a088274f65;
    uint256 private constant G2_3 = 0x596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e;
    uint256 private constant G2_4 = 0x000000000000000000000000000000000d1b3cc2c7027888be51d9ef691d77bc;
    uint256 private constant G2_5 = 0xb679afda66c73f17f9ee3837a55024f78c71363275a75d75d86bab79f74782aa;
    uint256 private constant G2_6 = 0x0000000000000000000000000000000013fa4d4a0ad8b1ce186ed5061789213d;
    uint256 private constant G2_7 = 0x993923066dddaf1040bc3ff59f825c78df74f2d75467e25e0f55f8a00fa030ed;

    /// The domain separation tag, 43 bytes, and behind it its length as one.
    bytes32 private constant DST_0 = "BLS_SIG_BLS12381G1_XMD:SHA-256_S";
    bytes32 private constant DST_1 = "SWU_RO_NUL_\x2b";

    /// @notice When round 1 came, in unix seconds, and the seconds between rounds.
    uint64 public immutable genesis;
    uint64 public immutable period;

    uint256 private immutable PK_0;
    uint256 private immutable PK_1;
    uint256 private immutable PK_2;
    uint256 private immutable PK_3;
    uint256 private immutable PK_4;
    uint256 private immutable PK_5;
    uint256 private immutable PK_6;
    uint256 private immutable PK_7;

    mapping(uint256 place => bytes32) private _known;

    event RoundVerified(uint64 indexed round, bytes32 randomness);

    /// @notice The signature is not the beacon's over this round, or no point of the curve.
    error BadSignature(uint64 round);
    /// @notice The key is not a point of G2, or the one at infinity.
    error BadKey();
    /// @notice A parameter outside its bounds.
    error OutOfBounds();

    /// @param key the beacon's key, a point of G2 as EIP-2537 writes it: x.c0, x.c1, y.c0, y.c1, each in two words
    /// @param genesis_ when round 1 came, in unix seconds
    /// @param period_ seconds between rounds
    constructor(uint256[8] memory key, uint64 genesis_, uint64 period_) {
        if (period_ == 0) revert OutOfBounds();
        genesis = genesis_;
        period = period_;
        uint256 any = 0;
        for (uint256 i = 0; i < 8; ++i) {
            any |= key[i];
        }
        // A pairing with infinity is always one, and the precompile refuses what is no point of the subgroup.
        (bool ok, bytes memory one) = address(0x0f).staticcall(abi.encodePacked(new bytes(128), key));
        // The length is checked before.
        // forge-lint: disable-next-line(unsafe-typecast)
        if (any == 0 || !ok || one.length != 32 || bytes32(one) != bytes32(uint256(1))) revert BadKey();
        PK_0 = key[0];
        PK_1 = key[1];
        PK_2 = key[2];
        PK_3 = key[3];
        PK_4 = key[4];
        PK_5 = key[5];
        PK_6 = key[6];
        PK_7 = key[7];
        // So that every submission finds a slot that is in use, and costs the same.
        for (uint256 i = 0; i < RING; ++i) {
            _known[i] = bytes32(uint256(1));
        }
    }

    /// @notice Checks a round and remembers its randomness. The signature is given uncompressed: x and y, each in two
    /// words, the upper 16 bytes zero.
    function submit(uint64 round, uint256[4] calldata signature) external returns (bytes32 randomness) {
        randomness = verify(round, signature);
        _known[round % RING] = keccak256(abi.encode(round, randomness));
        emit RoundVerified(round, randomness);
    }

    /// @notice Whether this is the randomness of a round that was submitted and not forgotten since.
    function known(uint64 round, bytes32 randomness) external view returns (bool) {
        return _known[round % RING] == keccak256(abi.encode(round, randomness));
    }

    /// @notice The last round that is due at a time, in unix seconds; 0 before the first.
    function roundAt(uint64 time) external view returns (uint64) {
        return time < genesis ? 0 : (time - genesis) / period + 1;
    }

    /// @notice The beacon's key, as it was given to the constructor.
    function publicKey() external view returns (uint256[8] memory) {
        return [PK_0, PK_1, PK_2, PK_3, PK_4, PK_5, PK_6, PK_7];
    }

    /// @notice The randomness of a round, or an error where the signature is not the beacon's.
    function verify(uint64 round, uint256[4] calldata signature) public view returns (bytes32 randomness) {
        bool ok = round != 0;
        // The points are written where the pairing's input needs them: signature, -G2, message, key; 768 bytes.
        uint256 input;
        assembly ("memory-safe") {
            input := mload(0x40)
            mstore(0x40, add(input, 0x300))
            calldatacopy(input, signature, 0x80)
            mstore(add(input, 0x080), G2_0)
            mstore(add(input, 0x0a0), G2_1)
            mstore(add(input, 0x0c0), G2_2)
            mstore(add(input, 0x0e0), G2_3)
            mstore(add(input, 0x100), G2_4)
            mstore(add(input, 0x120), G2_5)
            mstore(add(input, 0x140), G2_6)
            mstore(add(input, 0x160), G2_7)
        }
        ok = _hashToCurve(round, input + 0x180) && ok;
        _putKey(input + 0x200);
        assembly ("memory-safe") {
            mstore(0, 0)
            // A point that is none costs all gas given: not all there is, and three times what a pairing takes.
            ok := and(ok, staticcall(300000, 0x0f, input, 0x300, 0, 0x20))
            ok := and(ok, eq(mload(0), 1))
        }
        if (!ok) revert BadSignature(round);
        return _compressedHash(signature);
    }

    /// SHA-256 of the compressed point: x in 48 bytes, with two flags in the upper bits. The pairing has shown that it
    /// is a point, and not the one at infinity.
    function _compressedHash(uint256[4] calldata signature) private view returns (bytes32 randomness) {
        uint256 yHi = signature[2];
        uint256 greater = yHi > HALF_HI || (yHi == HALF_HI && signature[3] > HALF_LO) ? 0x20 : 0;
        uint256 hi = signature[0] | ((0x80 | greater) << 120);
        uint256 lo = signature[1];
        assembly ("memory-safe") {
            mstore(0, shl(128, hi))
            mstore(0x10, lo)
            if iszero(staticcall(gas(), 2, 0, 0x30, 0, 0x20)) { revert(0, 0) }
            randomness := mload(0)
        }
    }

    /// Hashes a round to a point of G1 (RFC 9380, BLS12381G1_XMD:SHA-256_SSWU_RO) and writes its 128 bytes to `out`.
    function _hashToCurve(uint64 round, uint256 out) private view returns (bool ok) {
        assembly ("memory-safe") {
            function sha(from, size, to) -> good {
                good := staticcall(gas(), 2, from, size, to, 0x20)
            }
            // The 512 bits at `at`, modulo p, as 64 bytes at `to`; by the precompile of EIP-198, with the exponent 1.
            function reduce(at, to, work) -> good {
                mstore(work, 0x40)
                mstore(add(work, 0x20), 1)
                mstore(add(work, 0x40), 0x40)
                mcopy(add(work, 0x60), at, 0x40)
                mstore8(add(work, 0xa0), 1)
                mstore(add(work, 0xa1), P_HI)
                mstore(add(work, 0xc1), P_LO)
                good := staticcall(gas(), 5, work, 0xe1, to, 0x40)
            }

            let work := mload(0x40)
            // The message: SHA-256 of the round's eight bytes.
            mstore(work, shl(192, round))
            ok := sha(work, 8, 0)

            // expand_message_xmd to 128 bytes. b0 = H(64 zeros | message | 0x0080 | 0x00 | DST | length of DST).
            mstore(work, 0)
            mstore(add(work, 0x20), 0)
            mstore(add(work, 0x40), mload(0))
            mstore(add(work, 0x60), shl(232, 0x008000))
            mstore(add(work, 0x63), DST_0)
            mstore(add(work, 0x83), DST_1)
            ok := and(ok, sha(work, 0x8f, 0))

            // b_i = H((b0 xor b_{i-1}) | i | DST | length of DST), b_0 being taken as zero for the first.
            let b0 := mload(0)
            let chain := add(work, 0x60)
            let last := 0
            mstore(add(work, 0x21), DST_0)
            mstore(add(work, 0x41), DST_1)
            for { let i := 1 } lt(i, 5) { i := add(i, 1) } {
                mstore(work, xor(b0, last))
                mstore8(add(work, 0x20), i)
                let to := add(chain, shl(5, i))
                ok := and(ok, sha(work, 0x4d, to))
                last := mload(to)
            }

            // Two field elements, each mapped to the curve, the points added.
            let second := add(chain, 0x60)
            let first := add(chain, 0x20)
            let modexp := add(chain, 0xa0)
            ok := and(ok, reduce(first, first, modexp))
            ok := and(ok, reduce(second, second, modexp))
            ok := and(ok, staticcall(gas(), 0x10, first, 0x40, modexp, 0x80))
            ok := and(ok, staticcall(gas(), 0x10, second, 0x40, add(modexp, 0x80), 0x80))
            ok := and(ok, staticcall(gas(), 0x0b, modexp, 0x100, out, 0x80))
        }
    }

    function _putKey(uint256 to) private view {
        (uint256 a, uint256 b, uint256 c, uint256 d) = (PK_0, PK_1, PK_2, PK_3);
        (uint256 e, uint256 f, uint256 g, uint256 h) = (PK_4, PK_5, PK_6, PK_7);
        assembly ("memory-safe") {
            mstore(to, a)
            mstore(add(to, 0x20), b)
            mstore(add(to, 0x40), c)
            mstore(add(to, 0x60), d)
            mstore(add(to, 0x80), e)
            mstore(add(to, 0xa0), f)
            mstore(add(to, 0xc0), g)
            mstore(add(to, 0xe0), h)
        }
    }
}
