-- Counts the look-ups of a day.
-- KEYS: the day's hash
-- ARGV: seconds to live, number of layers looked up, number of known layers
redis.call('HINCRBY', KEYS[1], 'asked', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'known', ARGV[3])
redis.call('EXPIRE', KEYS[1], tonumber(ARGV[1]))
return 1
