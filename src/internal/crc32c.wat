;; CRC-32C of bytes in this module's memory, for `crc32c.ts`, which fills the tables, puts the input in its place, and
;; takes the checksum's inversions on itself.
;;
;; - $slice looks each byte up in a table, sixteen at a time, as the portable loop does.
;; - $fold makes a short message of a long one that has the same checksum, sixteen bytes at a time and without a table:
;;
;;       x^2320 + x^1088 + x^904 + x^856 + x^256 + 1
;;
;;   is a multiple of the polynomial, so a byte can be taken away if it is added to those 154, 177, 183, 258 and 290
;;   bytes further on. What is left in the end are the last 290 to 305 bytes. Six terms are the fewest of any multiple
;;   that short, and all steps are longer than 128 bytes because a load that waits for a store takes long.
;;   After "Chorba: A novel CRC32 implementation" (Sam Russell, 2024), which does so for the polynomial of zlib.
;;
;; | at     | bytes  | what                                                     |
;; | ------ | ------ | -------------------------------------------------------- |
;; | 0      | 16,384 | sixteen tables of 256 words                              |
;; | 16,384 | 304    | zeros: there is nothing before the first byte            |
;; | 16,688 | 16,384 | each byte with all that was added to it, until the tail  |
;; | ...    | 304    | zeros behind the last of those: the tail is not added on |
;; | 33,376 | 416    | the tail                                                 |
;; | 33,792 | 16,384 | the input; what is read behind its end does not count    |
(module
  (memory (export "memory") 1)

  ;; The checksum's state after the bytes from $at to before $end.
  (func $slice (param $at i32) (param $end i32) (param $crc i32) (result i32)
    (local $b i32)
    (local $c i32)
    (local $d i32)
    (block $few
      (loop $sixteen
        (br_if $few (i32.lt_u (i32.sub (local.get $end) (local.get $at)) (i32.const 16)))
        (local.set $crc (i32.xor (local.get $crc) (i32.load align=1 (local.get $at))))
        (local.set $b (i32.load offset=4 align=1 (local.get $at)))
        (local.set $c (i32.load offset=8 align=1 (local.get $at)))
        (local.set $d (i32.load offset=12 align=1 (local.get $at)))
        (local.set $crc
          (i32.xor
            (i32.xor
              (i32.xor
                (i32.xor
                  (i32.load offset=15360 (i32.shl (i32.and (local.get $crc) (i32.const 255)) (i32.const 2)))
                  (i32.load offset=14336 (i32.and (i32.shr_u (local.get $crc) (i32.const 6)) (i32.const 1020))))
                (i32.xor
                  (i32.load offset=13312 (i32.and (i32.shr_u (local.get $crc) (i32.const 14)) (i32.const 1020)))
                  (i32.load offset=12288 (i32.and (i32.shr_u (local.get $crc) (i32.const 22)) (i32.const 1020)))))
              (i32.xor
                (i32.xor
                  (i32.load offset=11264 (i32.shl (i32.and (local.get $b) (i32.const 255)) (i32.const 2)))
                  (i32.load offset=10240 (i32.and (i32.shr_u (local.get $b) (i32.const 6)) (i32.const 1020))))
                (i32.xor
                  (i32.load offset=9216 (i32.and (i32.shr_u (local.get $b) (i32.const 14)) (i32.const 1020)))
                  (i32.load offset=8192 (i32.and (i32.shr_u (local.get $b) (i32.const 22)) (i32.const 1020))))))
            (i32.xor
              (i32.xor
                (i32.xor
                  (i32.load offset=7168 (i32.shl (i32.and (local.get $c) (i32.const 255)) (i32.const 2)))
                  (i32.load offset=6144 (i32.and (i32.shr_u (local.get $c) (i32.const 6)) (i32.const 1020))))
                (i32.xor
                  (i32.load offset=5120 (i32.and (i32.shr_u (local.get $c) (i32.const 14)) (i32.const 1020)))
                  (i32.load offset=4096 (i32.and (i32.shr_u (local.get $c) (i32.const 22)) (i32.const 1020)))))
              (i32.xor
                (i32.xor
                  (i32.load offset=3072 (i32.shl (i32.and (local.get $d) (i32.const 255)) (i32.const 2)))
                  (i32.load offset=2048 (i32.and (i32.shr_u (local.get $d) (i32.const 6)) (i32.const 1020))))
                (i32.xor
                  (i32.load offset=1024 (i32.and (i32.shr_u (local.get $d) (i32.const 14)) (i32.const 1020)))
                  (i32.load (i32.and (i32.shr_u (local.get $d) (i32.const 22)) (i32.const 1020))))))))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br $sixteen)))
    (block $fewer
      (loop $four
        (br_if $fewer (i32.lt_u (i32.sub (local.get $end) (local.get $at)) (i32.const 4)))
        (local.set $crc (i32.xor (local.get $crc) (i32.load align=1 (local.get $at))))
        (local.set $crc
          (i32.xor
            (i32.xor
              (i32.load offset=3072 (i32.shl (i32.and (local.get $crc) (i32.const 255)) (i32.const 2)))
              (i32.load offset=2048 (i32.and (i32.shr_u (local.get $crc) (i32.const 6)) (i32.const 1020))))
            (i32.xor
              (i32.load offset=1024 (i32.and (i32.shr_u (local.get $crc) (i32.const 14)) (i32.const 1020)))
              (i32.load (i32.and (i32.shr_u (local.get $crc) (i32.const 22)) (i32.const 1020))))))
        (local.set $at (i32.add (local.get $at) (i32.const 4)))
        (br $four)))
    (block $none
      (loop $one
        (br_if $none (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $crc
          (i32.xor
            (i32.shr_u (local.get $crc) (i32.const 8))
            (i32.load
              (i32.shl
                (i32.and (i32.xor (local.get $crc) (i32.load8_u (local.get $at))) (i32.const 255))
                (i32.const 2)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $one)))
    (local.get $crc))

  ;; Leaves the tail of the bytes from $at to before $end, at least 306, in its place, and gives its length.
  (func $fold (param $at i32) (param $end i32) (param $crc i32) (result i32)
    (local $to i32)
    (local $last i32)
    (local $seed v128)
    (local $length i32)
    (local.set $length (i32.sub (local.get $end) (local.get $at)))
    (local.set $last (i32.and (i32.sub (local.get $length) (i32.const 290)) (i32.const -16)))
    (local.set $seed (i32x4.replace_lane 0 (v128.const i64x2 0 0) (local.get $crc)))
    (loop $folding
      (v128.store offset=16688 align=1 (local.get $to)
          (v128.xor
            (v128.xor
              (v128.load align=1 (local.get $at))
              (v128.xor
                (local.get $seed)
                (v128.load offset=16398 align=1 (local.get $to))))
            (v128.xor
              (v128.xor
                (v128.load offset=16430 align=1 (local.get $to))
                (v128.load offset=16505 align=1 (local.get $to)))
              (v128.xor
                (v128.load offset=16511 align=1 (local.get $to))
                (v128.load offset=16534 align=1 (local.get $to))))))
      (local.set $seed (v128.const i64x2 0 0))
      (local.set $at (i32.add (local.get $at) (i32.const 16)))
      (local.set $to (i32.add (local.get $to) (i32.const 16)))
      (br_if $folding (i32.lt_u (local.get $to) (local.get $last))))
    (memory.fill (i32.add (local.get $to) (i32.const 16688)) (i32.const 0) (i32.const 304))
    (loop $ending
      (v128.store offset=33376 align=1 (i32.sub (local.get $to) (local.get $last))
          (v128.xor
            (v128.xor
              (v128.load align=1 (local.get $at))
              (v128.xor
                (v128.load offset=16398 align=1 (local.get $to))
                (v128.load offset=16430 align=1 (local.get $to))))
            (v128.xor
              (v128.load offset=16505 align=1 (local.get $to))
              (v128.xor
                (v128.load offset=16511 align=1 (local.get $to))
                (v128.load offset=16534 align=1 (local.get $to))))))
      (local.set $at (i32.add (local.get $at) (i32.const 16)))
      (local.set $to (i32.add (local.get $to) (i32.const 16)))
      (br_if $ending (i32.lt_u (local.get $at) (local.get $end))))
    (i32.sub (local.get $length) (local.get $last)))

  ;; The state after the input, which has $length bytes, at most 16,384.
  (func (export "update") (param $length i32) (param $crc i32) (result i32)
    (local $end i32)
    (local.set $end (i32.add (local.get $length) (i32.const 33792)))
    (if (i32.lt_u (local.get $length) (i32.const 512))
      (then (return (call $slice (i32.const 33792) (local.get $end) (local.get $crc)))))
    (call $slice
      (i32.const 33376)
      (i32.add (i32.const 33376) (call $fold (i32.const 33792) (local.get $end) (local.get $crc)))
      (i32.const 0))))
