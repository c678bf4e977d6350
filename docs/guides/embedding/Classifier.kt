// Classify a bitmap with the model of a bundle, in LiteRT. In build.gradle:
//
//   implementation("com.google.ai.edge.litert:litert:2.3.0")
//
// Copy model.tflite and manifest.json of the bundle into the assets of the app.
import android.content.Context
import android.graphics.Bitmap
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import org.json.JSONArray
import org.json.JSONObject

class Classifier(context: Context) : AutoCloseable {
    private val manifest =
        JSONObject(context.assets.open("manifest.json").bufferedReader().use { it.readText() })
    private val shape = manifest.getJSONObject("model").getJSONArray("input_shape")
    private val height = shape.getInt(2)
    private val width = shape.getInt(3)
    private val preprocessing = manifest.getJSONObject("preprocessing")
    private val mean = floats(preprocessing.getJSONArray("mean"))
    private val std = floats(preprocessing.getJSONArray("std"))
    private val labels = manifest.getJSONArray("labels")
    private val model =
        CompiledModel.create(
            context.assets, "model.tflite", CompiledModel.Options(Accelerator.CPU), null)
    private val inputs = model.createInputBuffers()
    private val outputs = model.createOutputBuffers()

    init {
        // A bundle says these only where it prepares images otherwise than prepare() does.
        require(!preprocessing.has("fit") && !preprocessing.has("crop_fraction"))
    }

    /** The likeliest label, and its logit. */
    fun classify(photo: Bitmap): Pair<String, Float> {
        inputs[0].writeFloat(prepare(photo))
        model.run(inputs, outputs)
        val logits = outputs[0].readFloat()
        val best = logits.indices.maxByOrNull { logits[it] }!!
        return labels.getString(best) to logits[best]
    }

    /** The largest centre part of the right shape, as numbers: (height, width, 3). */
    private fun prepare(photo: Bitmap): FloatArray {
        val wide = minOf(photo.width, photo.height * width / height)
        val high = minOf(photo.height, photo.width * height / width)
        val centre =
            Bitmap.createBitmap(
                photo, (photo.width - wide) / 2, (photo.height - high) / 2, wide, high)
        val small = Bitmap.createScaledBitmap(centre, width, height, true)
        val pixels = IntArray(width * height)
        small.getPixels(pixels, 0, width, 0, 0, width, height)
        // A pixel is 0xAARRGGBB, and the model takes red, green and blue in this order.
        return FloatArray(3 * pixels.size) { i ->
            val level = (pixels[i / 3] shr (16 - 8 * (i % 3))) and 0xFF
            (level / 255f - mean[i % 3]) / std[i % 3]
        }
    }

    private fun floats(values: JSONArray) = FloatArray(3) { values.getDouble(it).toFloat() }

    override fun close() = model.close()
}
