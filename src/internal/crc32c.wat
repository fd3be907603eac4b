;; CRC-32C of bytes in this module's memory, for `crc32c.ts`, which fills the tables and puts the input in its place.
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
;; - $shorten does the same with a multiple that is shorter and has more terms, for shorter messages and for that tail:
;;
;;       x^784 + x^616 + x^408 + x^304 + x^264 + x^224 + x^32 + 1
;;
;;   Here a byte is added to those 21, 47, 60, 65, 70, 94 and 98 bytes further on, which are too near to be stored and
;;   loaded again: the last seven blocks stay in registers. What is left are the last 98 to 113 bytes.
;;
;; | at     | bytes  | what                                                     |
;; | ------ | ------ | -------------------------------------------------------- |
;; | 0      | 16,384 | sixteen tables of 256 words                              |
;; | 16,384 | 304    | zeros: there is nothing before the first byte            |
;; | 16,688 | 16,384 | each byte with all that was added to it, until the tail  |
;; | ...    | 304    | zeros behind the last of those: the tail is not added on |
;; | 33,376 | 416    | the tail, and then what is left of it                    |
;; | 33,792 | 16,384 | the input; what is read behind its end does not count    |
;; | 50,176 | ...    | frames that are made here                                |
(module
  (memory (export "memory") 5)

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

  ;; Leaves the tail of the bytes from $at to before $end, at least 114, where $fold leaves its own, and gives its length.
  ;; From there it can take them: it has read on before it writes.
  (func $shorten (param $at i32) (param $end i32) (param $crc i32) (result i32)
    (local $last i32)
    (local $to i32)
    (local $seed v128)
    (local $block v128)
    (local $1 v128)
    (local $2 v128)
    (local $3 v128)
    (local $4 v128)
    (local $5 v128)
    (local $6 v128)
    (local $7 v128)
    (local.set $last
      (i32.add
        (local.get $at)
        (i32.and (i32.sub (i32.sub (local.get $end) (local.get $at)) (i32.const 98)) (i32.const -16))))
    (local.set $seed (i32x4.replace_lane 0 (v128.const i64x2 0 0) (local.get $crc)))
    (loop $folding
      (local.set $block
        (v128.xor
          (v128.xor
            (v128.xor (v128.load align=1 (local.get $at)) (local.get $seed))
            (v128.xor
              (i8x16.shuffle 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 (local.get $7) (local.get $6))
              (i8x16.shuffle 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 (local.get $6) (local.get $5))))
          (v128.xor
            (v128.xor
              (i8x16.shuffle 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 (local.get $5) (local.get $4))
              (i8x16.shuffle 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 (local.get $5) (local.get $4)))
            (v128.xor
              (i8x16.shuffle 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 (local.get $4) (local.get $3))
              (v128.xor
                (i8x16.shuffle 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 (local.get $3) (local.get $2))
                (i8x16.shuffle 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 (local.get $2) (local.get $1)))))))
      (local.set $seed (v128.const i64x2 0 0))
      (local.set $at (i32.add (local.get $at) (i32.const 16)))
      (local.set $7 (local.get $6))
      (local.set $6 (local.get $5))
      (local.set $5 (local.get $4))
      (local.set $4 (local.get $3))
      (local.set $3 (local.get $2))
      (local.set $2 (local.get $1))
      (local.set $1 (local.get $block))
      (br_if $folding (i32.lt_u (local.get $at) (local.get $last))))
    ;; Nothing of the tail is added on.
    (local.set $1 (local.get $block))
    (loop $ending
      (local.set $block
        (v128.xor
          (v128.xor
            (v128.xor (v128.load align=1 (local.get $at)) (local.get $seed))
            (v128.xor
              (i8x16.shuffle 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 (local.get $7) (local.get $6))
              (i8x16.shuffle 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 (local.get $6) (local.get $5))))
          (v128.xor
            (v128.xor
              (i8x16.shuffle 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 (local.get $5) (local.get $4))
              (i8x16.shuffle 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 (local.get $5) (local.get $4)))
            (v128.xor
              (i8x16.shuffle 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 (local.get $4) (local.get $3))
              (v128.xor
                (i8x16.shuffle 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 (local.get $3) (local.get $2))
                (i8x16.shuffle 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 (local.get $2) (local.get $1)))))))
      (local.set $seed (v128.const i64x2 0 0))
      (local.set $at (i32.add (local.get $at) (i32.const 16)))
      (local.set $7 (local.get $6))
      (local.set $6 (local.get $5))
      (local.set $5 (local.get $4))
      (local.set $4 (local.get $3))
      (local.set $3 (local.get $2))
      (local.set $2 (local.get $1))
      (local.set $1 (v128.const i64x2 0 0))
      (v128.store offset=33376 align=1 (local.get $to) (local.get $block))
      (local.set $to (i32.add (local.get $to) (i32.const 16)))
      (br_if $ending (i32.lt_u (local.get $at) (local.get $end))))
    (i32.sub (local.get $end) (local.get $last)))

  ;; The state after the $length bytes at $at, at most 16,384.
  (func $update (export "update") (param $at i32) (param $length i32) (param $crc i32) (result i32)
    (local $end i32)
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (if (i32.lt_u (local.get $length) (i32.const 160))
      (then (return (call $slice (local.get $at) (local.get $end) (local.get $crc)))))
    (if (i32.ge_u (local.get $length) (i32.const 2048))
      (then
        (local.set $end (i32.add (i32.const 33376) (call $fold (local.get $at) (local.get $end) (local.get $crc))))
        (local.set $at (i32.const 33376))
        (local.set $crc (i32.const 0))))
    (call $slice
      (i32.const 33376)
      (i32.add (i32.const 33376) (call $shorten (local.get $at) (local.get $end) (local.get $crc)))
      (i32.const 0)))

  ;; Writes the checksum of each of $count frames back to back, from $at on. Their headers say how long they are.
  (func (export "seal") (param $at i32) (param $count i32)
    (local $end i32)
    (local $length i32)
    (local $crc i32)
    (loop $frames
      (local.set $end
        (i32.add
          (i32.add (local.get $at) (i32.const 24))
          (i32.add (i32.load offset=16 align=1 (local.get $at)) (i32.load offset=20 align=1 (local.get $at)))))
      (local.set $crc (i32.const -1))
      (loop $pieces
        (local.set $length (i32.sub (local.get $end) (local.get $at)))
        (if (i32.gt_u (local.get $length) (i32.const 16384)) (then (local.set $length (i32.const 16384))))
        (local.set $crc (call $update (local.get $at) (local.get $length) (local.get $crc)))
        (local.set $at (i32.add (local.get $at) (local.get $length)))
        (br_if $pieces (i32.lt_u (local.get $at) (local.get $end))))
      (i32.store align=1 (local.get $end) (i32.xor (local.get $crc) (i32.const -1)))
      (local.set $at (i32.add (local.get $end) (i32.const 4)))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (br_if $frames (local.get $count)))))
